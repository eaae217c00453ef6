"""PPO on environments: what it must learn, what must not change a number, and its exact metrics."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import (
    ClassicConfig,
    ClassicPPOConfig,
    GridworldConfig,
    GymnaxConfig,
    NetworkConfig,
    OptimConfig,
    ProbeConfig,
    split_dynamic,
)
from rlhf_jax.envs.make import make_env
from rlhf_jax.ops.policies import Categorical
from rlhf_jax.optim import make_optimizer
from rlhf_jax.rollout.envs import Episodes, Trajectory
from rlhf_jax.train.classic import estimate, make_classic, make_model, optimizer
from rlhf_jax.train.classic_lanes import make_lanes
from rlhf_jax.train.classic_run import last_returns

SMALL = NetworkConfig(layers=1, width=16)
PPO = ClassicPPOConfig(
    total_steps=6400, num_envs=16, num_steps=8, epochs=4, minibatches=2, entropy_coef=0.0
)


def trained(config, updates=None):
    """States and metrics [lanes, updates] of every seed."""
    lanes, rows = make_lanes(config), updates or config.ppo.updates
    states, metrics = jax.jit(lanes.advance(rows))(lanes.init(), lanes.hparams, jnp.int32(rows))
    return lanes, states, jax.device_get(metrics)


def probe_config(kind, **changes):
    return ClassicConfig(
        seeds=2,
        env=ProbeConfig(probe=kind),
        network=SMALL,
        ppo=dataclasses.replace(PPO, gamma=0.5, **changes),
        optim=OptimConfig(learning_rate=1e-2, schedule="linear"),
    )


LEARNT = {  # observations, their values under the best policy, and the action it takes
    "constant": ([0.0], [1.0], None),
    "observation": ([-1.0, 1.0], [-1.0, 1.0], None),
    "delay": ([0.0, 1.0], [0.5, 1.0], None),
    "action": ([0.0], [1.0], [1]),
    "both": ([-1.0, 1.0], [1.0, 1.0], [0, 1]),
}


@pytest.mark.parametrize("kind", list(LEARNT))
def test_probes_are_learnt(kind):
    check_probe(kind, probe_config(kind))


@pytest.mark.parametrize(
    "changes",
    [
        {"surrogate": "adaptive_kl_penalty", "whiten_advantages": "batch"},
        {"surrogate": "log_clip", "clip_value": True, "value_clip_eps": 1.0},
        {"surrogate": "none", "recompute_advantages": True, "value_loss": "huber"},
        {"surrogate": "reinforce", "epochs": 1, "minibatches": 1, "total_steps": 25600},
        {"surrogate": "dual_clip", "whiten_advantages": "none", "anneal_entropy": 0.5},
    ],
    ids=lambda c: c["surrogate"],
)
def test_every_variant_learns_the_last_probe(changes):
    check_probe("both", probe_config("both", **changes))


def check_probe(kind, config):
    observations, values, actions = LEARNT[kind]
    _, states, _ = trained(config)
    model = make_model(config, make_env(config.env))
    seen = jnp.asarray(observations)[:, None]
    policy, found = jax.vmap(model.apply, in_axes=(0, None))(states.train.params, seen)
    np.testing.assert_allclose(found, np.broadcast_to(values, found.shape), atol=0.1)
    if actions is not None:
        chances = jax.nn.softmax(policy.logits)[:, np.arange(len(actions)), actions]
        assert chances.min() > 0.9


def test_without_the_observation_the_probe_is_not_learnt():
    """The negative control: a probe that a blind network passed would test nothing."""
    config = probe_config("both")
    config = dataclasses.replace(config, ppo=dataclasses.replace(config.ppo, total_steps=1280))
    config = dataclasses.replace(
        config,
        ppo=dataclasses.replace(config.ppo, normalize_observations=True, observation_clip=1e-9),
    )
    _, _, metrics = trained(config)
    assert np.abs(metrics["episode/return"][:, -1]).max() < 0.5


@pytest.fixture(scope="module")
def grid_config():
    return ClassicConfig(
        seeds=3,
        env=GridworldConfig(layout="corridor", slip=0.0),
        network=SMALL,
        ppo=dataclasses.replace(PPO, total_steps=20480, num_steps=32, gamma=0.95),
        optim=OptimConfig(learning_rate=1e-2, schedule="linear"),
    )


@pytest.fixture(scope="module")
def grid_run(grid_config):
    return trained(grid_config)


def test_the_corridor_is_walked_and_its_values_are_learnt(grid_run):
    _, _, metrics = grid_run
    assert metrics["exact/regret_share"][:, -1].max() < 0.01
    assert metrics["exact/regret_share"][:, 0].min() > 0.5
    assert np.all(metrics["exact/regret"] > -1e-5)  # nobody is better than the best
    assert metrics["exact/value_error"][:, -1].max() < 0.05


def test_the_exact_return_is_what_is_played(grid_run, grid_config):
    """At the end nearly nothing is random: ten steps, each costing 0.01, and the gold."""
    _, _, metrics = grid_run
    assert abs(last_returns(metrics) - 0.9).max() < 0.02
    assert metrics["episode/length"][:, -1].max() < 10.5
    exact = 0.95**9 - 0.01 * sum(0.95**t for t in range(10))
    np.testing.assert_allclose(metrics["exact/return"][:, -1], exact, atol=0.01)


def test_the_first_minibatch_of_an_update_has_ratio_one(grid_run):
    assert grid_run[2]["val/ratio_first_error"].max() < 1e-4


def test_a_lane_is_its_solo_run(grid_run, grid_config):
    _, _, together = grid_run
    solo = dataclasses.replace(grid_config, seed=1, seeds=1)
    _, _, alone = trained(solo)
    for name in ("exact/return", "loss/value_avg", "policy/entropy_avg"):
        np.testing.assert_allclose(alone[name][0, :5], together[name][1, :5], atol=1e-5)
    # Rounding differs between the two programs and learning enlarges it; the ends are alike.
    np.testing.assert_allclose(
        alone["exact/return"][0, -1], together["exact/return"][1, -1], atol=0.01
    )


def test_an_episode_cut_short_is_worth_its_rest():
    """One step an episode, reward 1, cut short: with bootstrapping the value is 1 / (1 - gamma)."""
    config = probe_config("constant")
    env = make_env(config.env)
    model = make_model(config, env)
    params = model.init(jax.random.key(0))
    values = lambda x: model.apply(params, x)[1]
    ones, observations = jnp.ones((3, 2)), jnp.zeros((3, 2, 1))
    cut = jnp.array([[True, False]] * 3)
    seen = Trajectory(
        observations=observations,
        actions=jnp.zeros((3, 2), jnp.int32),
        behavior_log_probs=ones,
        behavior=Categorical(jnp.zeros((3, 2, 2))),
        values=values(observations),
        rewards=ones,
        terminated=~cut,
        truncated=cut,
        final_observations=observations + 2.0,
        episodes=Episodes(returns=ones[0, 0], lengths=ones[0, 0], count=ones[0, 0]),
    )
    static, hparams = split_dynamic(config)
    play = make_classic(static).init(hparams).play
    play = dataclasses.replace(play, observation=jnp.zeros((2, 1)))
    found, advantages, returns = estimate(model, config.ppo, params, seen, play)
    rest = 0.5 * values(jnp.full((1,), 2.0))
    np.testing.assert_allclose(returns[:, 0], 1.0 + rest, atol=1e-6)
    np.testing.assert_allclose(returns[:, 1], 1.0, atol=1e-6)
    np.testing.assert_allclose(advantages, returns - found, atol=1e-6)
    ended = dataclasses.replace(config.ppo, bootstrap_truncated=False)
    np.testing.assert_allclose(estimate(model, ended, params, seen, play)[2], 1.0, atol=1e-6)
    stale = dataclasses.replace(seen, values=seen.values + 1.0)
    np.testing.assert_allclose(estimate(model, ended, params, stale, play)[0], found + 1.0)
    again = estimate(model, ended, params, stale, play, moved=True)[0]
    np.testing.assert_allclose(again, found, atol=1e-6)


def test_actions_of_real_numbers_are_learnt():
    """Pendulum: what is drawn has no bounds, mean and deviation both move, values are fitted."""
    config = ClassicConfig(
        env=GymnaxConfig(name="Pendulum-v1", max_steps=40),
        network=SMALL,
        ppo=dataclasses.replace(PPO, total_steps=8192, num_steps=32, scale_rewards=True),
        optim=OptimConfig(learning_rate=1e-2),
    )
    lanes, states, metrics = trained(config)
    before, after = (s.train.params["policy"] for s in (lanes.init(), states))
    assert np.all(np.isfinite(metrics["loss/total"]))
    assert np.all(metrics["val/ratio_first_error"] < 1e-4)
    assert np.abs(after["log_std"] - before["log_std"]).min() > 1e-2
    # The first values are near 0, and the returns of a pendulum that hangs are far below.
    assert metrics["loss/value_avg"][0, -4:].mean() < 0.5 * metrics["loss/value_avg"][0, :2].mean()
    assert metrics["val/explained_variance"][0, -4:].mean() > 0.3


@pytest.mark.parametrize("bound", [None, 0.1])
def test_parameters_as_one_vector_move_as_leaf_by_leaf(bound):
    config = probe_config("both")
    config = dataclasses.replace(config, optim=OptimConfig(max_grad_norm=bound))
    each = PPO.epochs * PPO.minibatches
    key = jax.random.key(0)
    draw = lambda k: {"a": jax.random.normal(k, (3, 2)), "b": {"c": jax.random.normal(k, (5,))}}
    moved = []
    for tx in (optimizer(config), make_optimizer(config.optim, config.ppo.updates * each, each)):
        params = draw(key)
        state = tx.init(params)
        for i in range(3):
            with jax.numpy_dtype_promotion("standard"):  # as optax is written for
                updates, state = tx.update(draw(jax.random.fold_in(key, i)), state, params)
            params = jax.tree.map(jnp.add, params, updates)
        moved.append(params)
    for one, other in zip(*map(jax.tree.leaves, moved)):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    assert not np.array_equal(moved[0]["a"], draw(key)["a"])
