"""Environments of gymnax 1.x: classic control, MinAtar, bsuite and more."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

import jax

from rlhf_jax.config import ConfigError, GymnaxConfig
from rlhf_jax.envs.protocol import Box, Discrete, Environment, Step, autoreset
from rlhf_jax.types import Array, Key


def relaxed(f: Callable[..., Any]) -> Callable[..., Any]:
    """`f` under jax's usual promotion rules, which gymnax is written for."""

    def call(*args: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return f(*args)

    return call


def load(name: str) -> tuple[Any, Any]:
    """gymnax's environment and its parameters.

    Raises:
      ConfigError: gymnax is not installed, too old, or does not know the name.
    """
    try:
        import gymnax
    except ImportError as error:
        raise ConfigError("env.name", name, f"needs gymnax ({error}); pip install gymnax") from None
    if not hasattr(gymnax.registration, "register"):
        raise ConfigError("env.name", name, "needs gymnax 1.0 or later; pip install -U gymnax")
    if name not in gymnax.registered_envs:
        close = difflib.get_close_matches(name, gymnax.registered_envs, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        accepted = f"{hint}gymnax has {', '.join(gymnax.registered_envs)}"
        raise ConfigError("env.name", name, accepted)
    return relaxed(gymnax.make)(name)


def make_gymnax(config: GymnaxConfig) -> Environment:
    """The environment of some settings."""
    env, params = load(config.name)
    if config.max_steps:
        params = params.replace(max_steps_in_episode=config.max_steps)
    space, seen = env.action_space(params), env.observation_space(params)
    if not hasattr(seen, "shape"):
        accepted = "its observations are no single array, which the networks here need"
        raise ConfigError("env.name", config.name, accepted)
    discrete = hasattr(space, "n")
    shape = () if discrete else tuple(space.shape)

    def advance(key: Key, state: Any, action: Array, begun: tuple[Array, Any]) -> Step:
        return relaxed(advanced)(env, params, key, state, action, begun)

    return Environment(
        name=config.name,
        reset=lambda key: relaxed(env.reset)(key, params),
        advance=advance,
        observation_shape=tuple(seen.shape),
        actions=Discrete(int(space.n)) if discrete else Box(space.low, space.high, shape),
    )


def advanced(
    env: Any, params: Any, key: Key, state: Any, action: Array, begun: tuple[Array, Any]
) -> Step:
    """gymnax's `step`, with the next episode given instead of drawn.

    An environment with a `step` of its own (DeepSea keeps count over episodes) is left to it.
    """
    from gymnax.environments import environment

    if type(env).step is not environment.Environment.step:
        return env.step(key, state, action, params)
    final, stepped, reward, terminated, info = env.step_env(key, state, action, params)
    truncated = env.is_truncated(stepped, params)
    observation, after = autoreset(terminated | truncated, begun, (final, stepped))
    info = info | {"final_observation": final, "terminated": terminated, "truncated": truncated}
    return observation, after, reward, terminated, truncated, info
