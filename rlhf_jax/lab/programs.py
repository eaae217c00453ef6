"""Programs that all cells of a task share: each is compiled once a worker, not once a cell."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.exact.optimum import divergence, objective
from rlhf_jax.exact.quantities import gaps, measure
from rlhf_jax.lab.bench import Bench, Place, log_probs_of
from rlhf_jax.types import Array, Metrics, Params

KEPT = 4  # benches


def known(log_probs: Array, place: Place, beta: float | Array) -> Metrics:
    """What is exactly known of a policy at a place."""
    policy = (log_probs, place.ref, place.rewards)
    return measure(*policy) | gaps(*policy, beta)


@functools.lru_cache(KEPT)
def make_look(bench: Bench) -> Callable[..., Metrics]:
    """`(policy, place, target, beta) -> metrics` of one lane; `own` is the gap to `target`."""

    def look(policy: Params, place: Place, target: Array, beta: Array) -> Metrics:
        log_probs = log_probs_of(bench, policy, place.prompts)
        own = divergence(log_probs, target) / divergence(place.ref, target)
        return known(log_probs, place, beta) | {"own": own}

    return jax.jit(look)


@functools.lru_cache(KEPT)
def make_gradient(bench: Bench) -> Callable[..., Params]:
    """`(policy, place, beta) -> the gradient of J`, exactly, of one lane."""

    def worth(policy: Params, place: Place, beta: Array) -> Array:
        log_probs = log_probs_of(bench, policy, place.prompts)
        return objective(log_probs, place.ref, place.rewards, beta)

    return jax.jit(jax.grad(worth))


def each_lane(f: Callable[..., Any], lanes: tuple, *shared: Any) -> Any:
    """`f(*lane, *shared)` of each lane of arrays [N, ...], as numpy arrays [N, ...].

    One after the other: a whole tree of prefixes fills the cache alone, and programs of one lane
    fit any number of them.
    """
    lanes = jax.tree.map(fetched, lanes)
    count = jax.tree.leaves(lanes)[0].shape[0]
    lane = lambda i: jax.tree.map(lambda x: x[i], lanes)
    found = [jax.device_get(f(*lane(i), *shared)) for i in range(count)]
    return jax.tree.map(lambda *x: np.stack(x), *found)


def fetched(x: Array) -> Array | np.ndarray:
    """As a numpy array, whose parts cost no compilation; keys stay what they are."""
    return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.asarray(x)
