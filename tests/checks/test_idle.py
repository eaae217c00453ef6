"""Settings that change nothing are named, with the reason; those that act are not."""

import dataclasses

import pytest

from rlhf_jax.checks.idle import EVERY, FAMILY, idle
from rlhf_jax.config import (
    BestOfNConfig,
    ModelConfig,
    PolicyGradientConfig,
    PreferenceConfig,
    RLHFConfig,
)

GRPO = {"advantage": "grpo", "group_size": 4}
OFF = {"kl_placement": "none", "kl_controller": "fixed"}
# key, where it is idle, a part of the reason, where it acts
CASES = [
    ("vf_coef", GRPO, "advantage=grpo has no value function", {}),
    ("value_clip_eps", {"clip_value": False}, "clip_value is false", {}),
    ("huber_delta", {}, "value_loss is squared", {"value_loss": "huber"}),
    ("gae_lambda", GRPO, "for algo.advantage=gae, not grpo", {}),
    ("baseline_decay", {}, "advantage=moving_mean", {"advantage": "moving_mean"}),
    ("group_std_epsilon", {}, "advantage=grpo", GRPO),
    ("clip_eps", {"surrogate": "none"}, "surrogate=none does not clip", {}),
    ("dual_clip", {}, "surrogate=dual_clip, not clip", {"surrogate": "dual_clip"}),
    ("penalty_coef", {}, "surrogate=kl_penalty", {"surrogate": "kl_penalty"}),
    ("penalty_target", {}, "adaptive_kl_penalty", {"surrogate": "adaptive_kl_penalty"}),
    ("kl_coef", OFF, "kl_placement is none", {}),
    ("kl_estimator", OFF, "kl_placement is none", {}),
    ("kl_target", {"kl_controller": "fixed"}, "kl_controller is fixed", {}),
    ("missing_eos_penalty", {}, "missing_eos is none", {"missing_eos": "subtract"}),
    ("overlong_penalty", {}, "overlong_buffer is 0", {"overlong_buffer": 4}),
]


@pytest.mark.parametrize("key, where, reason, acts", CASES, ids=[case[0] for case in CASES])
def test_a_number_without_its_switch_is_named(key, where, reason, acts):
    lines = list(idle(RLHFConfig(algo=PolicyGradientConfig(**where)), [f"algo.{key}"]))
    assert len(lines) == 1 and reason in lines[0]
    assert lines[0].startswith(f"algo.{key} changes nothing here: ")
    assert list(idle(RLHFConfig(algo=PolicyGradientConfig(**acts)), [f"algo.{key}"])) == []


def test_every_rule_of_the_family_names_settings_there_are():
    known = {f.name for f in dataclasses.fields(PolicyGradientConfig)}
    assert {key for rule in FAMILY for key in rule.keys} <= known
    assert {case[0] for case in CASES} <= known


def test_other_algorithms_and_networks():
    typed = {key for rule in EVERY for key in rule.keys}
    found = {line.split()[0] for line in idle(RLHFConfig(algo=BestOfNConfig()), typed)}
    assert {"algo.updates", "algo.batch_size", "model.value_layers", "model.value_init"} <= found
    lines = list(idle(RLHFConfig(algo=PreferenceConfig()), ["task.reward"]))
    assert lines[0].startswith("task.reward changes nothing here: dpo learns from the task's pairs")
    layers = ModelConfig(value_head="top_k_layers")
    assert list(idle(RLHFConfig(model=layers), ["model.value_layers", "task.reward"])) == []


def test_what_was_not_typed_is_not_told():
    assert list(idle(RLHFConfig(algo=PolicyGradientConfig(surrogate="none")), [])) == []
