"""Schedules by hand, and an optimizer whose numbers are traced."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import OptimConfig, merge_dynamic, split_dynamic
from rlhf_jax.optim import learning_rate, make_optimizer

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
GRADS = {"w": jnp.array([3.0, 0.1]), "b": jnp.array(-4.0)}


def rates(steps, **settings):
    config = OptimConfig(learning_rate=2.0, **settings)
    return [float(learning_rate(config, jnp.array(s), 10)) for s in steps]


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"schedule": "constant"}, [2.0, 2.0, 2.0, 2.0]),
        ({"schedule": "linear"}, [2.0, 1.0, 0.2, 0.0]),
        ({"schedule": "cosine"}, [2.0, 1.0, 1 - np.cos(0.1 * np.pi), 0.0]),
        ({"schedule": "linear", "final_scale": 0.5}, [2.0, 1.5, 1.1, 1.0]),
        ({"schedule": "constant", "final_scale": 0.5}, [2.0, 2.0, 2.0, 2.0]),
        ({"schedule": "constant", "warmup": 0.5}, [0.4, 2.0, 2.0, 2.0]),
    ],
)
def test_learning_rate_at_steps_0_5_9_and_after_the_end(settings, expected):
    np.testing.assert_allclose(rates([0, 5, 9, 12], **settings)[:3], expected[:3], atol=1e-6)
    assert rates([12], **settings)[0] == pytest.approx(expected[3], abs=1e-6)


def test_decay_starts_when_the_warm_up_ends():
    found = rates(range(10), schedule="linear", warmup=0.4)
    expected = [0.5, 1.0, 1.5, 2.0, 2.0, 10 / 6, 8 / 6, 1.0, 4 / 6, 2 / 6]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def update(hparams, static=None, grads=GRADS, steps=2):
    static = split_dynamic(OptimConfig())[0] if static is None else static
    tx = make_optimizer(merge_dynamic(static, hparams), 10)
    params, state = PARAMS, tx.init(PARAMS)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(steps):
            updates, state = tx.update(grads, state, params)
            params = jax.tree.map(jnp.add, params, updates)
    return params


def test_traced_numbers_over_lanes_equal_solo_runs():
    static, hparams = split_dynamic(OptimConfig(schedule="cosine", weight_decay=0.1))
    lanes = [hparams, hparams | {"learning_rate": 0.05, "beta1": 0.5, "max_grad_norm": 0.3}]
    stacked = jax.tree.map(lambda *x: jnp.array(x), *lanes)
    together = jax.jit(jax.vmap(lambda h: update(h, static)))(stacked)
    for i, lane in enumerate(lanes):
        solo = update(lane, static)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(solo), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-6)


def test_clipping_is_by_the_global_norm():
    # With a huge epsilon Adam's first step is gradient / epsilon, so the clipped size shows.
    _, hparams = split_dynamic(OptimConfig(learning_rate=1e6, epsilon=1e6, max_grad_norm=1.0))
    moved = jax.tree.map(jnp.subtract, PARAMS, update(hparams, steps=1))
    norm = float(np.sqrt(3.0**2 + 0.1**2 + 4.0**2))
    np.testing.assert_allclose(moved["w"], GRADS["w"] / norm, rtol=1e-4)
    np.testing.assert_allclose(moved["b"], GRADS["b"] / norm, rtol=1e-4)


def test_weight_decay_is_decoupled_from_adam():
    config = OptimConfig(learning_rate=0.1, weight_decay=0.5)
    static, hparams = split_dynamic(config)
    zero = jax.tree.map(jnp.zeros_like, GRADS)
    moved = update(hparams, static, grads=zero, steps=1)
    np.testing.assert_allclose(moved["w"], PARAMS["w"] * (1 - 0.1 * 0.5), atol=1e-6)


def test_the_state_has_one_layout_whatever_the_numbers():
    layouts = {
        jax.tree.structure(make_optimizer(dataclasses.replace(OptimConfig(), **s), 10).init(PARAMS))
        for s in ({}, {"weight_decay": 0.1}, {"max_grad_norm": 9.0}, {"schedule": "linear"})
    }
    assert len(layouts) == 1
