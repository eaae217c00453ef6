"""The adapter: what the field's environments give, as training sees it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import ConfigError, GymnaxConfig
from rlhf_jax.envs.gridworld import Gridworld
from rlhf_jax.envs.gymnax import make_gymnax
from rlhf_jax.envs.protocol import Box, Discrete

gymnax = pytest.importorskip("gymnax")
NAMES = {
    "CartPole-v1": ((4,), 2),
    "Acrobot-v1": ((6,), 3),
    "MountainCar-v0": ((2,), 3),
    "Breakout-MinAtar": ((10, 10, 4), None),
    "Catch-bsuite": ((10, 5), 3),
    "FourRooms-misc": (None, 4),
}


@pytest.mark.parametrize("name", NAMES)
def test_discrete_environments_are_stepped(name):
    env = make_gymnax(GymnaxConfig(name=name))
    shape, actions = NAMES[name]
    assert isinstance(env.actions, Discrete) and env.actions.n == (actions or env.actions.n)
    observation, state = jax.jit(env.reset)(jax.random.key(0))
    assert observation.shape == env.observation_shape == (shape or env.observation_shape)
    found = jax.jit(env.step)(jax.random.key(1), state, jnp.int32(0))
    assert len(found) == 6 and found[0].shape == env.observation_shape
    assert found[3].dtype == found[4].dtype == bool
    assert found[5]["final_observation"].shape == env.observation_shape


def test_real_numbers_are_a_box():
    env = make_gymnax(GymnaxConfig(name="Pendulum-v1"))
    assert isinstance(env.actions, Box) and env.actions.shape == (1,)
    assert float(np.max(env.actions.high)) == 2.0
    _, state = env.reset(jax.random.key(0))
    reward = jax.jit(env.step)(jax.random.key(1), state, jnp.zeros(1))[2]
    assert reward.shape == () and reward <= 0


def test_a_time_limit_cuts_and_a_fall_ends():
    env = make_gymnax(GymnaxConfig(name="CartPole-v1", max_steps=3))
    observation, state = env.reset(jax.random.key(0))
    step = jax.jit(env.step)
    for i in range(3):
        observation, state, reward, terminated, truncated, info = step(
            jax.random.key(i), state, jnp.int32(i % 2)
        )
        assert reward == 1.0 and not terminated and truncated == (i == 2)
    assert not np.allclose(observation, info["final_observation"])  # begun anew
    env = make_gymnax(GymnaxConfig(name="CartPole-v1"))
    _, state = env.reset(jax.random.key(0))
    step = jax.jit(env.step)
    for i in range(12):  # always to one side: the pole falls within twelve steps
        _, state, _, terminated, truncated, info = step(jax.random.key(i), state, jnp.int32(1))
        if terminated:
            break
    assert terminated and not truncated and abs(info["final_observation"][2]) > 0.2


@pytest.mark.parametrize("name", ["CartPole-v1", "Catch-bsuite", "DeepSea-bsuite"])
def test_steps_are_those_of_gymnax(name):
    """With the same key the same six values, ends and resets among them; DeepSea counts on."""
    env, (theirs, params) = make_gymnax(GymnaxConfig(name=name)), gymnax.make(name)
    _, state = env.reset(jax.random.key(0))
    ours, ended = jax.jit(env.step), False
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for i in range(25):
            wanted = theirs.step(jax.random.key(i), state, jnp.int32(1), params)
            found = ours(jax.random.key(i), state, jnp.int32(1))
            for a, b in zip(jax.tree.leaves(found[:5]), jax.tree.leaves(wanted[:5])):
                np.testing.assert_allclose(a, b, rtol=1e-6)
            np.testing.assert_allclose(
                found[5]["final_observation"], wanted[5]["final_observation"], rtol=1e-6
            )
            state = wanted[1]
            ended |= bool(wanted[3] | wanted[4])
    assert ended


def test_an_unknown_name_is_refused():
    with pytest.raises(ConfigError, match="did you mean CartPole-v1"):
        make_gymnax(GymnaxConfig(name="CartPole-v2"))


def test_our_gridworld_is_a_gymnax_environment():
    gymnax.registration.register("Dragon-rlhf", Gridworld)
    try:
        env, params = gymnax.make("Dragon-rlhf")
        _, state = env.reset(jax.random.key(0), params)
        assert len(env.step(jax.random.key(1), state, jnp.int32(1), params)) == 6
    finally:
        gymnax.registration._registry.pop("Dragon-rlhf")
        gymnax.registered_envs.remove("Dragon-rlhf")
