"""The environment some settings ask for."""

from __future__ import annotations

from rlhf_jax.config import EnvConfig, GridworldConfig, GymnaxConfig, ProbeConfig
from rlhf_jax.envs.gridworld import make_gridworld
from rlhf_jax.envs.gymnax import make_gymnax
from rlhf_jax.envs.probes import make_probe
from rlhf_jax.envs.protocol import Environment


def make_env(config: EnvConfig) -> Environment:
    """The environment, with its numbers bound; they may be traced.

    Raises:
      ConfigError: a name or a layout is not known.
    """
    if isinstance(config, GymnaxConfig):
        return make_gymnax(config)
    if isinstance(config, ProbeConfig):
        return make_probe(config)
    assert isinstance(config, GridworldConfig), f"{type(config).__name__} has no environment"
    return make_gridworld(config)
