"""Play: what is remembered of each step, resets, and normalisation by running moments."""

import dataclasses

import jax
import numpy as np
import pytest

from rlhf_jax.config import ClassicPPOConfig, GridworldConfig, NetworkConfig
from rlhf_jax.envs.make import make_env
from rlhf_jax.models.actor_critic import make_actor_critic
from rlhf_jax.rollout import envs
from rlhf_jax.rollout.envs import begin, episode_metrics, rollout

CONFIG = ClassicPPOConfig(num_envs=8, num_steps=40, gamma=0.9)
ENV = make_env(GridworldConfig(layout="corridor", max_steps=12))
MODEL = make_actor_critic(NetworkConfig(layers=1, width=8), (10,), 4)


def rolled(config, start):
    params = MODEL.init(jax.random.key(0))
    play = jax.jit(lambda p, s, k: rollout(ENV, MODEL, config, p, s, k))
    return play(params, start, jax.random.key(2))


def played(config):
    start = begin(ENV, 8, jax.random.key(1))
    return start, *rolled(config, start)


@pytest.fixture(scope="module")
def plain():
    return played(CONFIG)


def ends(seen):
    return np.asarray(seen.terminated | seen.truncated)


def test_steps_follow_each_other_and_episodes_begin_anew(plain):
    _, _, seen = plain
    assert seen.observations.shape == (40, 8, 10) and ends(seen).any()
    goes_on = ~ends(seen)[:-1]
    following = np.asarray(seen.observations[1:])
    np.testing.assert_array_equal(
        following[goes_on], np.asarray(seen.final_observations[:-1])[goes_on]
    )
    assert np.all(following[~goes_on][:, 0] == 1)  # the start
    assert not np.any(seen.terminated & seen.truncated)


def test_returns_of_episodes_are_the_sums_of_their_rewards(plain):
    """Over two rollouts: an episode may begin in one and end in the next."""
    _, after, seen = plain
    total, steps = np.zeros(8), np.zeros(8)
    for play, part in ((after, seen), rolled(CONFIG, after)):
        returns, lengths = [], []
        for rewards, ended in zip(np.asarray(part.rewards), ends(part)):
            total, steps = total + rewards, steps + 1
            returns, lengths = [*returns, *total[ended]], [*lengths, *steps[ended]]
            total[ended], steps[ended] = 0, 0
        metrics = episode_metrics(part)
        assert int(metrics["episode/count"]) == len(returns) > 0
        np.testing.assert_allclose(metrics["episode/return"], np.mean(returns), rtol=1e-5)
        np.testing.assert_allclose(metrics["episode/length"], np.mean(lengths), rtol=1e-6)
        np.testing.assert_allclose(play.returns, total, atol=1e-6)
        np.testing.assert_array_equal(play.lengths, steps)
        assert max(lengths) == 12  # the time limit


def test_what_is_remembered_is_what_the_network_says(plain):
    _, _, seen = plain
    policy, values = MODEL.apply(MODEL.init(jax.random.key(0)), seen.observations)
    np.testing.assert_allclose(seen.values, values, atol=1e-6)
    np.testing.assert_allclose(seen.behavior_log_probs, policy.log_prob(seen.actions), atol=1e-6)


def test_resets_made_before_the_rollout_are_those_made_in_it(plain, monkeypatch):
    monkeypatch.setattr(envs, "RESET_BYTES", 0)
    _, play, seen = played(CONFIG)
    jax.tree.map(np.testing.assert_array_equal, seen.observations, plain[2].observations)
    np.testing.assert_array_equal(play.state.place, plain[1].state.place)


def test_what_nobody_asks_for_is_not_kept():
    assert (
        played(dataclasses.replace(CONFIG, bootstrap_truncated=False))[2].final_observations is None
    )


def test_nothing_ended_is_no_number():
    config = dataclasses.replace(CONFIG, num_steps=2)
    assert np.isnan(episode_metrics(played(config)[2])["episode/return"])


def test_observations_are_standardised_and_cut(plain):
    config = dataclasses.replace(CONFIG, normalize_observations=True, observation_clip=2.0)
    start, after, seen = played(config)
    assert np.abs(seen.observations).max() == 2.0
    assert after.seen.count > start.seen.count + 300
    assert np.abs(np.mean(seen.observations[20:], axis=(0, 1))).max() < 0.5


def test_cutting_is_a_switch_of_its_own(plain):
    config = dataclasses.replace(CONFIG, observation_clip=0.5, reward_clip=0.005)
    _, _, seen = played(config)
    assert set(np.unique(seen.observations)) == {0.0, 0.5}
    assert np.abs(seen.rewards).max() == np.float32(0.005)
    assert np.abs(plain[2].rewards).max() > 0.005


def test_rewards_are_scaled_without_a_shift(plain):
    config = dataclasses.replace(CONFIG, scale_rewards=True)
    _, after, seen = played(config)
    raw = np.asarray(plain[2].rewards)  # the same play: nothing was learnt
    np.testing.assert_array_equal(np.sign(seen.rewards), np.sign(raw))
    np.testing.assert_allclose(
        seen.rewards[-1], raw[-1] / np.sqrt(after.gained.var + 1e-8), rtol=1e-5
    )
    total, sums = np.zeros(8), []
    for t in range(40):
        total = 0.9 * total + raw[t]
        sums.append(total.copy())
        total[ends(seen)[t]] = 0
    np.testing.assert_allclose(after.gained.var, np.var(sums), rtol=0.02)
