"""A gridworld with gold and dragons, as a gymnax environment and as exact tables.

The letters of a map and what ends an episode are in `envs/layout.py`. Each step costs a little.
With the chance `slip` a move goes to one of its two sides instead, to either with half of it; who
runs into a wall stays.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.config.env import GridworldConfig
from rlhf_jax.envs.layout import FOUND_COIN, FOUND_GOLD, MET_DRAGON, NOTHING, Layout, load_layout
from rlhf_jax.envs.protocol import MDP, Box, Discrete, Environment, Step, autoreset
from rlhf_jax.types import Array, Key, record

SIDES = ((0, 1, 3), (1, 0, 2), (2, 1, 3), (3, 0, 2))  # a move, and where it may slip to


@record
class GridParams:
    """The numbers of a gridworld; all may be traced."""

    slip: Any = 0.1  # in [0, 1]
    step_cost: Any = 0.01
    gold: Any = 1.0
    dragon: Any = -1.0
    coin: Any = 0.3
    # Chance that an episode begins in any state that can be reached, and not at a start.
    explore_starts: Any = 0.0
    max_steps_in_episode: Any = 100


@record
class GridState:
    """Where the player stands, which coins are gone, and the steps of this episode."""

    place: Array  # [] int32, a state of the layout
    time: Array  # [] int32


class Gridworld:
    """A layout with gymnax's interface: `reset(key, params)`, `step(key, state, action, params)`.

    Observations are one-hot: one entry a state.

    >>> env = Gridworld("corridor")
    >>> observation, state = env.reset(jax.random.key(0))
    >>> int(jnp.argmax(observation)), env.num_actions
    (0, 4)
    """

    def __init__(self, layout: str | Layout = "dragon"):
        self.layout = layout if isinstance(layout, Layout) else load_layout(layout)
        self.num_actions = 4
        self.name = "gridworld"

    @property
    def default_params(self) -> GridParams:
        """Those of `GridworldConfig`."""
        return GridParams()

    def action_space(self, params: GridParams | None = None) -> Discrete:
        """Up, right, down, left."""
        return Discrete(4)

    def observation_space(self, params: GridParams | None = None) -> Box:
        """One-hot over the states."""
        return Box(0.0, 1.0, (self.layout.size,))

    def observe(self, place: Array) -> Array:
        """One-hot observation [S] of a state."""
        return jax.nn.one_hot(place, self.layout.size, dtype=jnp.float32)

    def reset(self, key: Key, params: GridParams | None = None) -> tuple[Array, GridState]:
        """A start, each as likely as the others; or, to explore, any state."""
        params = self.default_params if params is None else params
        keys = jax.random.split(key, 3)
        start = jax.random.choice(keys[0], jnp.asarray(self.layout.starts))
        anywhere = np.flatnonzero(self.layout.reachable).astype(np.int32)
        elsewhere = jax.random.choice(keys[1], jnp.asarray(anywhere))
        explores = jax.random.uniform(keys[2]) < params.explore_starts
        place = jnp.where(explores, elsewhere, start)
        return self.observe(place), GridState(place=place, time=jnp.zeros((), jnp.int32))

    def step(
        self, key: Key, state: GridState, action: Array, params: GridParams | None = None
    ) -> Step:
        """One move; see `Environment`."""
        params = self.default_params if params is None else params
        key_slip, key_reset = jax.random.split(key)
        begun = self.reset(key_reset, params)
        return self.advance(jax.random.uniform(key_slip), state, action, begun, params)

    def advance(
        self,
        chance: Array,
        state: GridState,
        action: Array,
        begun: tuple[Array, GridState],
        params: GridParams,
    ) -> Step:
        """One move with its luck given, in [0, 1), and the episode that may follow."""
        direction = slipped(chance, action, params.slip)
        event = jnp.asarray(self.layout.event)[state.place, direction]
        place = jnp.asarray(self.layout.moved)[state.place, direction]
        stepped = GridState(place=place, time=state.time + 1)
        terminated = (event == FOUND_GOLD) | (event == MET_DRAGON)
        truncated = stepped.time >= params.max_steps_in_episode
        final = self.observe(place)
        observation, after = autoreset(terminated | truncated, begun, (final, stepped))
        info = {"terminated": terminated, "truncated": truncated, "final_observation": final}
        info["discount"] = 1.0 - terminated.astype(jnp.float32)
        return observation, after, rewards(params)[event], terminated, truncated, info

    def tables(self, params: GridParams | None = None) -> MDP:
        """The decision process as arrays: `P[s, a, s'] = sum_d p(d | a) [s goes by d to s']`.

        Its episodes begin at the starts, whatever `explore_starts` is, and have no time limit.
        """
        params = self.default_params if params is None else params
        layout, directions = self.layout, direction_probs(params.slip)
        dtype = directions.dtype
        goes_on = jnp.asarray((layout.event == NOTHING) | (layout.event == FOUND_COIN))
        to = jax.nn.one_hot(layout.moved, layout.size, dtype=dtype)  # [S, D, S]
        to = to * goes_on[..., None].astype(dtype)
        gains = rewards(params).astype(dtype)[layout.event]  # [S, D]
        start = np.bincount(layout.starts, minlength=layout.size) / len(layout.starts)
        return MDP(
            transitions=jnp.einsum("ad,sdt->sat", directions, to),
            rewards=jnp.einsum("ad,sd->sa", directions, gains),
            start=jnp.asarray(start, dtype),
        )


def slipped(chance: Array, action: Array, slip: Array | float) -> Array:
    """The direction an action really takes; `chance` is uniform in [0, 1)."""
    which = jnp.where(chance < slip / 2, 1, jnp.where(chance < slip, 2, 0))
    return jnp.asarray(SIDES, jnp.int32)[action, which]


def direction_probs(slip: Array | float) -> Array:
    """Chance [A, D] that an action goes each way.

    >>> direction_probs(0.5)[0].tolist()
    [0.5, 0.25, 0.0, 0.25]
    """
    straight = jnp.eye(4)
    sides = jnp.asarray([[d in SIDES[a][1:] for d in range(4)] for a in range(4)])
    return (1.0 - slip) * straight + 0.5 * slip * sides.astype(straight.dtype)


def rewards(params: GridParams) -> Array:
    """Reward of a step by what it meets [4]: nothing, gold, a dragon, a coin."""
    met = [0.0, params.gold, params.dragon, params.coin]
    return jnp.stack([jnp.asarray(x, float) for x in met]) - params.step_cost


def make_gridworld(config: GridworldConfig) -> Environment:
    """The environment of some settings, whose numbers may be traced."""
    env = Gridworld(config.layout)
    params = GridParams(
        slip=config.slip,
        step_cost=config.step_cost,
        gold=config.gold,
        dragon=config.dragon,
        coin=config.coin,
        explore_starts=config.explore_starts,
        max_steps_in_episode=config.max_steps,
    )
    return Environment(
        name=config.name,
        reset=lambda key: env.reset(key, params),
        advance=lambda chance, state, action, begun: env.advance(
            chance, state, action, begun, params
        ),
        draw=jax.random.uniform,
        observation_shape=(env.layout.size,),
        actions=Discrete(4),
        mdp=lambda: env.tables(params),
        observations=lambda: jnp.eye(env.layout.size),
    )
