"""Functions of one lane over many, however the lanes are laid out."""

import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import OptimConfig, RLHFConfig
from rlhf_jax.sweep.lanes import numbers, stacked, stacked_numbers
from rlhf_jax.sweep.layout import Layout, over


@pytest.mark.parametrize("strategy", ["map", "vmap"])
@pytest.mark.parametrize("shared", [True, False])
def test_lanes_see_their_own_what_they_share_and_what_is_common(strategy, shared):
    layout = Layout(strategy=strategy, lanes=3, shared=shared, rows=1)
    frozen = jnp.arange(4.0) if shared else jnp.arange(12.0).reshape(3, 4)
    rows = jnp.array([[1.0], [2.0], [3.0]])
    found = over(layout, lambda lane, frozen, common: lane * frozen + common)(
        rows, frozen, jnp.float32(0.5)
    )
    np.testing.assert_allclose(found, np.asarray(rows) * np.asarray(frozen) + 0.5)


def test_numbers_are_those_of_the_program_alone():
    configs = [RLHFConfig(seed=i, optim=OptimConfig(learning_rate=10.0**-i)) for i in (1, 2)]
    assert {"seed", "sft", "reward_model"}.isdisjoint(numbers(configs[0]))
    rates = stacked_numbers(configs)["optim"]["learning_rate"]
    assert rates.dtype == jnp.float32
    np.testing.assert_allclose(rates, [0.1, 0.01], rtol=1e-6)


def test_a_number_that_is_none_stays_none():
    configs = [RLHFConfig(optim=OptimConfig(max_grad_norm=None))] * 2
    assert stacked_numbers(configs)["optim"]["max_grad_norm"] is None


def test_stacked_trees_have_an_axis_of_lanes():
    tree = {"a": np.ones(2, np.float32)}
    assert stacked([tree] * 3)["a"].shape == (3, 2)


SPLIT = """
import jax, jax.numpy as jnp
from rlhf_jax.sweep.layout import Layout, devices_of, over
for strategy in ("map", "vmap"):
    for shared in (True, False):
        layout = Layout(strategy=strategy, lanes=4, shared=shared, rows=1)
        frozen = jnp.arange(3.0) if shared else jnp.ones((4, 3))
        f = jax.jit(over(layout, lambda lane, frozen, common: jnp.sum(lane * frozen) + common))
        found = f(jnp.arange(4.0), frozen, jnp.float32(1.0))
        assert devices_of(layout) == 2 and len(found.sharding.device_set) == 2
        assert found.tolist() == [1.0, 4.0, 7.0, 10.0], found
        step = lambda lane, frozen, common: (lane[0] + lane[1], jnp.sum(lane[0] * frozen) + common)
        f = jax.jit(over(layout, step, in_place=True))
        states, found = f((jnp.arange(4.0), jnp.ones(4)), frozen, jnp.float32(1.0))
        assert states.tolist() == [1.0, 2.0, 3.0, 4.0], states
        assert found.tolist() == [1.0, 4.0, 7.0, 10.0], found
"""


def test_lanes_are_split_over_devices():
    flags = "--xla_force_host_platform_device_count=2"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "NPROC": "4"}
    done = subprocess.run(
        [sys.executable, "-c", SPLIT], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
