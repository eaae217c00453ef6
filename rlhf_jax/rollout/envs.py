"""Play: T steps of B copies of an environment, inside the compiled program."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rlhf_jax.config import ClassicPPOConfig
from rlhf_jax.envs.protocol import Box, Environment
from rlhf_jax.models.functional import Model
from rlhf_jax.ops.moments import Moments
from rlhf_jax.ops.policies import Policy
from rlhf_jax.types import Array, Key, Metrics, Params, record


@record
class Play:
    """Where the copies stand between two updates."""

    state: Any  # of the environment, [B, ...]
    observation: Array  # [B, ...], as the environment gives it
    returns: Array  # [B], of the episode so far, in points of the environment
    lengths: Array  # [B] int32
    discounted: Array  # [B], sum of the rewards so far, discounted forwards
    seen: Moments  # of the observations
    gained: Moments  # of `discounted`


@record
class Trajectory:
    """What happened, [T, B]; observations and rewards as the networks see them."""

    observations: Array  # [T, B, ...]
    actions: Array  # [T, B, ...]
    behavior_log_probs: Array  # [T, B]
    behavior: Policy  # what the actions were drawn from
    values: Array  # [T, B]
    rewards: Array  # [T, B]
    terminated: Array  # [T, B] bool, the episode was over
    truncated: Array  # [T, B] bool, it was cut short, and not over
    final_observations: Array  # [T, B, ...], what the step led to, before a reset
    episode_returns: Array  # [T, B], of the episode that ended here; else 0
    episode_lengths: Array  # [T, B] int32, likewise


def begin(env: Environment, copies: int, key: Key) -> Play:
    """All copies at the start of an episode."""
    observation, state = jax.vmap(env.reset)(jax.random.split(key, copies))
    observation = observation.astype(jnp.float32)
    zeros = jnp.zeros(copies)
    return Play(
        state=state,
        observation=observation,
        returns=zeros,
        lengths=jnp.zeros(copies, jnp.int32),
        discounted=zeros,
        seen=Moments.fresh(observation.shape[1:]).seen(observation),
        gained=Moments.fresh(),
    )


def as_seen(config: ClassicPPOConfig, seen: Moments, observation: Array) -> Array:
    """An observation as the networks are given it."""
    if config.normalize_observations:
        observation = seen.standardize(observation)
    return within(observation, config.observation_clip)


def within(x: Array, bound: float | None) -> Array:
    """`x`, cut to +- `bound` if there is one."""
    return x if bound is None else jnp.clip(x, -bound, bound)


def bounded(env: Environment, action: Array) -> Array:
    """An action the environment allows; what was drawn, and is learnt from, has no bounds."""
    if isinstance(env.actions, Box):
        return jnp.clip(action, env.actions.low, env.actions.high)
    return action


def rollout(
    env: Environment, model: Model, config: ClassicPPOConfig, params: Params, play: Play, key: Key
) -> tuple[Play, Trajectory]:
    """`num_steps` steps of every copy."""

    def step(play: Play, key: Key) -> tuple[Play, Trajectory]:
        return one_step(env, model, config, params, play, key)

    return lax.scan(step, play, jax.random.split(key, config.num_steps))


def one_step(
    env: Environment, model: Model, config: ClassicPPOConfig, params: Params, play: Play, key: Key
) -> tuple[Play, Trajectory]:
    """One step of every copy, and what is remembered of it."""
    observation = as_seen(config, play.seen, play.observation)
    policy, values = model.apply(params, observation)
    key_action, key_step = jax.random.split(key)
    action = policy.sample(key_action)
    keys = jax.random.split(key_step, values.shape[0])
    found, state, reward, terminated, cut, info = jax.vmap(env.step)(
        keys, play.state, bounded(env, action)
    )
    final = info["final_observation"].astype(jnp.float32)
    reward = reward.astype(jnp.float32)
    truncated = cut & ~terminated
    ended = terminated | truncated
    returns, lengths = play.returns + reward, play.lengths + 1
    play, learnt = count_reward(config, play, reward, ended)
    over = lambda x: jnp.where(ended, 0, x)
    remembered = Trajectory(
        observations=observation,
        actions=action,
        behavior_log_probs=policy.log_prob(action),
        behavior=policy,
        values=values,
        rewards=learnt,
        terminated=terminated,
        truncated=truncated,
        final_observations=as_seen(config, play.seen, final),
        episode_returns=jnp.where(ended, returns, 0),
        episode_lengths=jnp.where(ended, lengths, 0),
    )
    found = found.astype(jnp.float32)
    seen = play.seen.seen(found) if config.normalize_observations else play.seen
    play = dataclasses.replace(
        play,
        state=state,
        observation=found,
        returns=over(returns),
        lengths=over(lengths),
        seen=seen,
    )
    return play, remembered


def count_reward(
    config: ClassicPPOConfig, play: Play, reward: Array, ended: Array
) -> tuple[Play, Array]:
    """The reward as it is learnt from: divided by the deviation of `R_t = gamma R_{t-1} + r_t`.

    Each of dividing and cutting is a switch.

    Source: `NormalizeReward` of gym; the "reward scaling" of Engstrom et al. 2020,
    arXiv:2005.12729, which takes no mean away.
    """
    if not config.scale_rewards:
        return play, within(reward, config.reward_clip)
    discounted = config.gamma * play.discounted + reward
    gained = play.gained.seen(discounted)
    after = dataclasses.replace(play, discounted=jnp.where(ended, 0.0, discounted), gained=gained)
    return after, within(gained.scale(reward), config.reward_clip)


def episode_metrics(play: Trajectory) -> Metrics:
    """Mean return and length of the episodes that ended; NaN where none did."""
    ended = play.terminated | play.truncated
    count = jnp.sum(ended, dtype=jnp.float32)
    mean = lambda x: jnp.where(
        count > 0, jnp.sum(x.astype(jnp.float32)) / jnp.maximum(count, 1.0), jnp.nan
    )
    return {
        "episode/return": mean(play.episode_returns),
        "episode/length": mean(play.episode_lengths),
        "episode/count": count,
    }
