"""Settings of PPO on environments that cannot work are refused before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from rlhf_jax.checks import check_leaf, leaves
from rlhf_jax.checks.idle import PENALTIES, UNCLIPPED
from rlhf_jax.config import ClassicConfig, ClassicPPOConfig, ConfigError, GridworldConfig

# Settings that are not read under another setting: key of ppo, when, and which setting it is.
IDLE: list[tuple[str, Callable[[ClassicPPOConfig], bool], str]] = [
    ("clip_eps", lambda p: p.surrogate in UNCLIPPED, "surrogate"),
    ("clip_eps_high", lambda p: p.surrogate in UNCLIPPED, "surrogate"),
    ("dual_clip", lambda p: p.surrogate != "dual_clip", "surrogate"),
    ("penalty_coef", lambda p: p.surrogate not in PENALTIES, "surrogate"),
    ("penalty_target", lambda p: p.surrogate != "adaptive_kl_penalty", "surrogate"),
    ("anneal_entropy", lambda p: p.entropy_coef == 0, "entropy_coef"),
    ("whiten_variance", lambda p: p.whiten_advantages == "none", "whiten_advantages"),
    ("huber_delta", lambda p: p.value_loss != "huber", "value_loss"),
    ("value_clip_eps", lambda p: not p.clip_value, "clip_value"),
]


def idle_classic(config: ClassicConfig, typed: Collection[str]) -> Iterator[str]:
    """A line for each typed setting that changes nothing.

    >>> list(idle_classic(ClassicConfig(), ["ppo.dual_clip"]))
    ['ppo.dual_clip changes nothing with ppo.surrogate=clip']
    """
    for key, when, other in IDLE:
        if f"ppo.{key}" in typed and when(config.ppo):
            value = getattr(config.ppo, other)
            yield f"ppo.{key} changes nothing with ppo.{other}={value}"


def check_classic(config: ClassicConfig) -> None:
    """Raises ConfigError for the first setting that cannot work."""
    for key, f, value in leaves(config):
        check_leaf(key, f, value)
    ppo, network = config.ppo, config.network
    if ppo.batch_size % ppo.minibatches:
        accepted = f"must divide ppo.num_envs * ppo.num_steps = {ppo.batch_size}"
        raise ConfigError("ppo.minibatches", ppo.minibatches, accepted)
    if ppo.updates < 1:
        accepted = f"must be at least ppo.num_envs * ppo.num_steps = {ppo.batch_size}"
        raise ConfigError("ppo.total_steps", ppo.total_steps, accepted)
    if ppo.whiten_advantages == "minibatch" and ppo.batch_size == ppo.minibatches:
        accepted = "minibatches of one step have no variance; use fewer, or whiten over batch"
        raise ConfigError("ppo.minibatches", ppo.minibatches, accepted)
    if ppo.surrogate == "dual_clip" and ppo.dual_clip <= 1:
        raise ConfigError("ppo.dual_clip", ppo.dual_clip, "must be above 1")
    if ppo.surrogate == "reinforce" and ppo.epochs * ppo.minibatches > 1:
        accepted = "has no ratio to correct a second step; use ppo.epochs=1 ppo.minibatches=1"
        raise ConfigError("ppo.surrogate", ppo.surrogate, accepted)
    if network.layers == 0 and network.value_sharing == "separate_matched":
        accepted = "there is no trunk to share with network.layers=0; use separate"
        raise ConfigError("network.value_sharing", network.value_sharing, accepted)
    env = config.env
    if isinstance(env, GridworldConfig) and ppo.gamma == 1 and env.step_cost <= 0:
        accepted = "with ppo.gamma=1 it must be above 0: going on for ever would be as good as any"
        raise ConfigError("env.step_cost", env.step_cost, accepted)
    if config.seed + config.seeds > 2**32:
        raise ConfigError("seeds", config.seeds, "the last seed must be below 2**32")
