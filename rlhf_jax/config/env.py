"""Settings of the environments that a policy network is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf_jax.config.fields import (
    NOT_NEGATIVE,
    POSITIVE,
    SHARE,
    Range,
    choice,
    dynamic,
    number,
)

ANY = Range("must be a finite number", lambda x: True)
DEFAULT = Range("must be 0 (its own) or above", lambda x: x >= 0)


@dataclass(frozen=True)
class EnvConfig:
    """What every environment has."""

    name: str = "gridworld"  # shown beside the numbers


@dataclass(frozen=True)
class GridworldConfig(EnvConfig):
    """Gold, dragons, coins and walls; everything about it is known exactly."""

    layout: str = "dragon"  # a shipped one, or the path of a text file
    slip: float = dynamic(0.1, SHARE)  # chance that a move goes to one of its two sides
    step_cost: float = dynamic(0.01, NOT_NEGATIVE)
    gold: float = dynamic(1.0, ANY)  # reward; ends the episode
    dragon: float = dynamic(-1.0, ANY)  # reward; ends the episode
    coin: float = dynamic(0.3, ANY)  # reward; there once an episode
    # Chance that an episode of training begins anywhere; what is reported begins at S.
    explore_starts: float = dynamic(0.0, SHARE)
    max_steps: int = number(100, POSITIVE)


@dataclass(frozen=True)
class GymnaxConfig(EnvConfig):
    """An environment of gymnax 1.x, by its name there."""

    name: str = "CartPole-v1"
    max_steps: int = number(0, DEFAULT)  # of an episode; 0: its own


@dataclass(frozen=True)
class ProbeConfig(EnvConfig):
    """Environments so small that each can fail for one reason only."""

    name: str = "probe"
    probe: str = choice("constant", "observation", "delay", "action", "both")
