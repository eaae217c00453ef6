"""Settings that other settings leave without effect.

They are no error: a number may stand ready while the switch it belongs to is off, as in a sweep
over that switch. But who types one should hear that it changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from rlhf_jax.config import (
    BestOfNConfig,
    PolicyGradientConfig,
    PreferenceConfig,
    RLHFConfig,
)

UNCLIPPED = ("none", "kl_penalty", "adaptive_kl_penalty", "reinforce")
PENALTIES = ("kl_penalty", "adaptive_kl_penalty")


class Idle(NamedTuple):
    """Settings that are not read under another setting."""

    keys: tuple[str, ...]
    when: Callable[[Any], bool]  # of the algorithm's settings, or of all
    reason: str  # of "KEY changes nothing: ..."


FAMILY = [
    Idle(
        ("vf_coef", "value_clip_eps", "huber_delta"),
        lambda algo: not algo.critic,
        "algo.advantage={algo.advantage} has no value function",
    ),
    Idle(("value_clip_eps",), lambda algo: not algo.clip_value, "algo.clip_value is false"),
    Idle(("huber_delta",), lambda algo: algo.value_loss != "huber", "algo.value_loss is squared"),
    Idle(
        ("gae_lambda",),
        lambda algo: algo.advantage != "gae",
        "it is for algo.advantage=gae, not {algo.advantage}",
    ),
    Idle(
        ("baseline_decay",),
        lambda algo: algo.advantage != "moving_mean",
        "it is for algo.advantage=moving_mean, not {algo.advantage}",
    ),
    Idle(
        ("group_std_epsilon",),
        lambda algo: algo.advantage != "grpo",
        "it is for algo.advantage=grpo, not {algo.advantage}",
    ),
    Idle(
        ("clip_eps",),
        lambda algo: algo.surrogate in UNCLIPPED,
        "algo.surrogate={algo.surrogate} does not clip",
    ),
    Idle(
        ("clip_eps",),
        lambda algo: algo.surrogate == "cispo" and algo.clip_eps_high is not None,
        "algo.surrogate=cispo caps at algo.clip_eps_high",
    ),
    Idle(
        ("dual_clip",),
        lambda algo: algo.surrogate != "dual_clip",
        "it is for algo.surrogate=dual_clip, not {algo.surrogate}",
    ),
    Idle(
        ("penalty_coef",),
        lambda algo: algo.surrogate not in PENALTIES,
        "it is for algo.surrogate=kl_penalty and adaptive_kl_penalty, not {algo.surrogate}",
    ),
    Idle(
        ("penalty_target",),
        lambda algo: algo.surrogate != "adaptive_kl_penalty",
        "it is for algo.surrogate=adaptive_kl_penalty, not {algo.surrogate}",
    ),
    Idle(
        ("kl_coef", "kl_estimator"),
        lambda algo: algo.kl_placement == "none",
        "algo.kl_placement is none",
    ),
    Idle(
        ("kl_target", "kl_horizon", "kl_unit"),
        lambda algo: algo.kl_controller == "fixed",
        "algo.kl_controller is fixed",
    ),
    Idle(
        ("missing_eos_penalty",),
        lambda algo: algo.missing_eos == "none",
        "algo.missing_eos is none",
    ),
    Idle(
        ("overlong_penalty",),
        lambda algo: not algo.overlong_buffer,
        "algo.overlong_buffer is 0",
    ),
]
EVERY = [
    Idle(
        ("algo.updates", "algo.batch_size", "run.checkpoint_every"),
        lambda config: isinstance(config.algo, BestOfNConfig),
        "best_of_n trains nothing",
    ),
    Idle(
        ("task.reward",),
        lambda config: isinstance(config.algo, PreferenceConfig),
        "{algo.name} learns from the task's pairs; it is only shown in the comparison",
    ),
    Idle(
        ("model.value_layers",),
        lambda config: config.model.value_head != "top_k_layers",
        "it is for model.value_head=top_k_layers, not {model.value_head}",
    ),
    Idle(
        ("model.value_init",),
        lambda config: not getattr(config.algo, "critic", False),
        "{algo.name} has no value function",
    ),
]


def idle(config: RLHFConfig, typed: Collection[str]) -> Iterator[str]:
    """A line for each setting in `typed` (dotted keys) that changes nothing in `config`."""
    family = isinstance(config.algo, PolicyGradientConfig)
    rules = [(f"algo.{key}", rule, config.algo) for rule in FAMILY for key in rule.keys if family]
    rules += [(key, rule, config) for rule in EVERY for key in rule.keys]
    told = set()
    for key, rule, settings in rules:
        if key in typed and key not in told and rule.when(settings):
            told.add(key)
            reason = rule.reason.format(algo=config.algo, model=config.model)
            yield f"{key} changes nothing here: {reason}"
