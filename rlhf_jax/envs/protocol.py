"""What training sees of an environment: two pure functions and the shapes around them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from rlhf_jax.types import Array, Key, record


class Discrete(NamedTuple):
    """Actions 0 to `n - 1`."""

    n: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one action: a scalar."""
        return ()


class Box(NamedTuple):
    """Actions that are vectors of real numbers; what leaves the box is moved to its edge."""

    low: Any  # broadcasts to shape
    high: Any
    shape: tuple[int, ...]


@record
class MDP:
    """A finite Markov decision process, whose rows of `transitions` lack what ends the episode.

    With S states and A actions; a row's sum is 1 less the chance that the episode ends.
    """

    transitions: Array  # [S, A, S], >= 0, sums in [0, 1]
    rewards: Array  # [S, A], expected reward of the step
    start: Array  # [S], sums to 1


Step = tuple[Array, Any, Array, Array, Array, dict[str, Any]]


class Environment(NamedTuple):
    """An environment with its numbers bound, one copy; `jax.vmap` it over a batch.

    `reset(key)` gives (observation, state). `step(key, state, action)` gives gymnax's six values:
    observation, state, reward, terminated, truncated, info. An episode that ended is begun anew
    within the step; `info["final_observation"]` is then what the old one ended with.

    `advance(chance, state, action, begun)` gives the same six, with all that is random drawn
    beforehand: `chance`, which `draw(key)` gave, and `begun`, the reset that follows if the episode
    ends. Thousands of draws at once cost far less than one in each step.
    """

    name: str
    reset: Callable[[Key], tuple[Array, Any]]
    advance: Callable[[Any, Any, Array, tuple[Array, Any]], Step]
    observation_shape: tuple[int, ...]
    actions: Discrete | Box
    draw: Callable[[Key], Any] = lambda key: key
    # Of a finite one: its tables, and the observation of each state [S, ...].
    mdp: Callable[[], MDP] | None = None
    observations: Callable[[], Array] | None = None

    def step(self, key: Key, state: Any, action: Array) -> Step:
        """One step by hand."""
        key_draw, key_reset = jax.random.split(key)
        return self.advance(self.draw(key_draw), state, action, self.reset(key_reset))


def autoreset(
    ended: Array, begun: tuple[Array, Any], stepped: tuple[Array, Any]
) -> tuple[Array, Any]:
    """The first observation and state of the next episode where one ended.

    >>> autoreset(jnp.array(True), (jnp.zeros(1), 0), (jnp.ones(1), 5))[0].tolist()
    [0.0]
    """
    return jax.tree.map(lambda new, old: jnp.where(ended, new, old), begun, stepped)
