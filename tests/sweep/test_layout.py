"""Functions of one lane over many, however the lanes are laid out."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


@pytest.mark.parametrize("strategy", ["map", "vmap"])
@pytest.mark.parametrize("shared", [True, False])
def test_a_state_may_take_the_place_of_the_one_before(strategy, shared):
    layout = Layout(strategy=strategy, lanes=3, shared=shared, rows=1)
    frozen = jnp.arange(4.0) if shared else jnp.arange(12.0).reshape(3, 4)
    step = lambda lane, frozen, common: ({"x": lane[0]["x"] + lane[1]}, frozen * lane[0]["x"][0])
    states, add = {"x": jnp.arange(6.0).reshape(3, 2)}, jnp.array([10.0, 20.0, 30.0])
    after, found = jax.jit(over(layout, step, in_place=True))((states, add), frozen, 0.0)
    np.testing.assert_allclose(after["x"], np.asarray(states["x"]) + np.asarray(add)[:, None])
    np.testing.assert_allclose(found, np.asarray(frozen) * np.asarray(states["x"])[:, :1])


@pytest.mark.parametrize("in_place, states", [(True, 0), (False, 1)])
def test_in_place_memory_holds_one_state_of_a_lane(in_place, states):
    layout, size = Layout(strategy="map", lanes=4, shared=True, rows=1), 100_000
    step = lambda lane, shared, common: (jnp.sin(lane[0]) + lane[1], common)
    lanes = (jnp.ones((4, size)), jnp.ones(4))
    run = jax.jit(over(layout, step, in_place=in_place), donate_argnums=(0,))
    memory = run.lower(lanes, None, jnp.float32(0.0)).compile().memory_analysis()
    lane_bytes = 4 * size
    assert abs(memory.temp_size_in_bytes - states * 4 * lane_bytes) < lane_bytes / 2


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
        assert len(states.sharding.device_set) == 2
        assert found.tolist() == [1.0, 4.0, 7.0, 10.0], found
"""


def test_lanes_are_split_over_devices():
    flags = "--xla_force_host_platform_device_count=2"
    env = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "NPROC": "4"}
    done = subprocess.run(
        [sys.executable, "-c", SPLIT], env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
