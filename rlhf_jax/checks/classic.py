"""Settings of PPO on environments that cannot work are refused before anything is computed."""

from __future__ import annotations

from rlhf_jax.checks import check_leaf, leaves
from rlhf_jax.config import ClassicConfig, ConfigError


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
    if config.seed + config.seeds > 2**32:
        raise ConfigError("seeds", config.seeds, "the last seed must be below 2**32")
