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

RESET_BYTES = 2**22  # of all resets of a rollout, where they are drawn before it


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
class Episodes:
    """Those that ended in a rollout, added up."""

    returns: Array  # [], in points of the environment
    lengths: Array  # [] float32
    count: Array  # [] float32


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
    # [T, B, ...], what the step led to, before a reset; None if nothing asks (bootstrap_truncated).
    final_observations: Array | None
    episodes: Episodes


@record
class Chance:
    """All that is random in a rollout, [T, B, ...], drawn before its first step."""

    action: Array  # noise of the policy
    step: Any  # of the environment
    begun: Any  # the resets, of which few are used; or their keys


@record
class Seen:
    """What the loop over steps remembers, [T, B, ...]; the rest follows from it."""

    observation: Array
    action: Array
    policy: Policy
    reward: Array  # in points of the environment
    terminated: Array
    truncated: Array
    final: Array | None


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
    """`num_steps` steps of every copy.

    The loop holds only what the next step needs: every operation in it costs its start, T times.
    """

    def step(play: Play, chance: Chance) -> tuple[Play, Seen]:
        return one_step(env, model, config, params, play, chance)

    chance = drawn(env, model, config, params, play, key)
    after, seen = lax.scan(step, play, chance)
    ended = seen.terminated | seen.truncated
    after, episodes = count_episodes(after, seen.reward, ended)
    after, rewards = count_rewards(config, after, seen.reward, ended)
    return after, Trajectory(
        observations=seen.observation,
        actions=seen.action,
        behavior_log_probs=seen.policy.log_prob(seen.action),
        behavior=seen.policy,
        values=model.apply(params, seen.observation)[1],
        rewards=rewards,
        terminated=seen.terminated,
        truncated=seen.truncated,
        final_observations=seen.final,
        episodes=episodes,
    )


def drawn(
    env: Environment, model: Model, config: ClassicPPOConfig, params: Params, play: Play, key: Key
) -> Chance:
    """What chance does in a rollout."""
    steps, copies = config.num_steps, play.lengths.shape[0]
    keys = jax.random.split(key, 3)
    each = lambda key: jax.random.split(key, (steps, copies))
    policy, _ = jax.eval_shape(model.apply, params, play.observation)
    resets = each(keys[2])
    if drawn_before(env, steps * copies):
        resets = jax.vmap(jax.vmap(env.reset))(resets)
    return Chance(
        action=policy.noise(keys[0], steps),
        step=jax.vmap(jax.vmap(env.draw))(each(keys[1])),
        begun=resets,
    )


def drawn_before(env: Environment, count: int) -> bool:
    """Whether so many resets are small enough to be made before any is needed."""
    made = jax.tree.leaves(jax.eval_shape(env.reset, jax.random.key(0)))
    return count * sum(x.size * x.dtype.itemsize for x in made) <= RESET_BYTES


def one_step(
    env: Environment,
    model: Model,
    config: ClassicPPOConfig,
    params: Params,
    play: Play,
    chance: Chance,
) -> tuple[Play, Seen]:
    """One step of every copy, and what is remembered of it."""
    observation = as_seen(config, play.seen, play.observation)
    policy, _ = model.apply(params, observation)
    action = policy.act(chance.action)
    begun = chance.begun if isinstance(chance.begun, tuple) else jax.vmap(env.reset)(chance.begun)
    found, state, reward, terminated, cut, info = jax.vmap(env.advance)(
        chance.step, play.state, bounded(env, action), begun
    )
    final = None
    if config.bootstrap_truncated:
        final = as_seen(config, play.seen, info["final_observation"].astype(jnp.float32))
    remembered = Seen(
        observation=observation,
        action=action,
        policy=policy,
        reward=reward.astype(jnp.float32),
        terminated=terminated,
        truncated=cut & ~terminated,
        final=final,
    )
    found = found.astype(jnp.float32)
    seen = play.seen.seen(found) if config.normalize_observations else play.seen
    return dataclasses.replace(play, state=state, observation=found, seen=seen), remembered


def count_episodes(play: Play, rewards: Array, ended: Array) -> tuple[Play, Episodes]:
    """Sums over the episodes that ended, and where the others stand.

    Args:
      play: `returns` and `lengths` as they were before the rollout.
      rewards: [T, B], in points of the environment.
      ended: [T, B] bool.
    """
    steps = jnp.arange(1, ended.shape[0] + 1, dtype=jnp.int32)[:, None]
    closed = jnp.max(jnp.where(ended, steps, 0), axis=0)  # [B], steps up to the last end
    over = steps <= closed[None]
    before = jnp.sum(jnp.where(over, rewards, 0.0), axis=0)
    after = jnp.sum(jnp.where(over, 0.0, rewards), axis=0)
    any_ended = closed > 0
    old = lambda x: jnp.where(any_ended, 0, x)
    done = lambda x: jnp.sum(jnp.where(any_ended, x, 0).astype(jnp.float32))
    episodes = Episodes(
        returns=done(play.returns + before),
        lengths=done(play.lengths + closed),
        count=jnp.sum(ended, dtype=jnp.float32),
    )
    left = ended.shape[0] - closed
    following = {"returns": old(play.returns) + after, "lengths": old(play.lengths) + left}
    return dataclasses.replace(play, **following), episodes


def count_rewards(
    config: ClassicPPOConfig, play: Play, rewards: Array, ended: Array
) -> tuple[Play, Array]:
    """The rewards as they are learnt from, [T, B]."""
    if not config.scale_rewards:
        return play, within(rewards, config.reward_clip)
    one = lambda play, step: count_reward(config, play, *step)
    return lax.scan(one, play, (rewards, ended))


def count_reward(
    config: ClassicPPOConfig, play: Play, reward: Array, ended: Array
) -> tuple[Play, Array]:
    """The reward as it is learnt from: divided by the deviation of `R_t = gamma R_{t-1} + r_t`.

    Source: `NormalizeReward` of gym; the "reward scaling" of Engstrom et al. 2020,
    arXiv:2005.12729, which takes no mean away.
    """
    discounted = config.gamma * play.discounted + reward
    gained = play.gained.seen(discounted)
    after = dataclasses.replace(play, discounted=jnp.where(ended, 0.0, discounted), gained=gained)
    return after, within(gained.scale(reward), config.reward_clip)


def episode_metrics(play: Trajectory) -> Metrics:
    """Mean return and length of the episodes that ended; NaN where none did."""
    count = play.episodes.count
    mean = lambda total: jnp.where(count > 0, total / jnp.maximum(count, 1.0), jnp.nan)
    return {
        "episode/return": mean(play.episodes.returns),
        "episode/length": mean(play.episodes.lengths),
        "episode/count": count,
    }
