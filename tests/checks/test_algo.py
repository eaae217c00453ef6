"""Every refusal of the algorithm's switches: an example that is refused, and how it is mended."""

import ast
import dataclasses
import inspect

import pytest
import yaml

from rlhf_jax.checks import algo, check_config, policy_gradient, rewards
from rlhf_jax.config import (
    BestOfNConfig,
    ConfigError,
    OnlineDPOConfig,
    PolicyGradientConfig,
    PreferenceConfig,
    RejectionConfig,
    ReviewsConfig,
    RLHFConfig,
)

GRPO = "advantage=grpo group_size=4 whiten_advantages=none "
RAFT = "advantage=best_of_group group_size=4 whiten_advantages=none surrogate=reinforce "
REINFORCE = "surrogate=reinforce epochs=1 minibatches=1 "
FIXED = "kl_controller=fixed "
NO_END = "sampling.min_length=24 sampling.max_length=24 "

# What is set, the key that is blamed, what the message says, what mends it; `algo.` is left out.
PPO = [
    # Batches.
    ("minibatches=5", "minibatches", "one of [1, 2, 4, 8, 16, 32, 64]", "minibatches=8"),
    ("group_size=5", "group_size", "divide algo.batch_size=64", "group_size=8"),
    # The surrogate.
    ("surrogate=asymmetric_clip", "clip_eps_high", "has 0.28", "clip_eps_high=0.28"),
    ("clip_eps_high=0.3", "clip_eps_high", "clip has none; use null", "surrogate=cispo"),
    ("surrogate=none clip_eps_high=0.3", "clip_eps_high", "none has none", "clip_eps_high=null"),
    ("surrogate=dual_clip dual_clip=1.2", "dual_clip", "1 + algo.clip_eps", "dual_clip=1.3"),
    ("surrogate=dual_clip dual_clip=1.3 clip_eps_high=0.4", "dual_clip", "", "clip_eps_high=0.2"),
    (
        "surrogate=adaptive_kl_penalty penalty_coef=0.0",
        "penalty_coef",
        "0 stays 0",
        "surrogate=kl_penalty",
    ),
    ("surrogate=gspo", "advantage", "whole sequences", GRPO),
    # The ratio.
    ("max_mean_ratio=1.0", "max_mean_ratio", "above 1", "max_mean_ratio=1.5"),
    ("surrogate=reinforce", "epochs", "algo.epochs=1 and algo.minibatches=1", REINFORCE),
    ("surrogate=reinforce epochs=1", "minibatches", "no probability ratio", "target_kl=0.1"),
    (REINFORCE + "log_ratio_clip=20.0", "log_ratio_clip", "use null", "surrogate=clip"),
    # Advantages.
    ("advantage=rloo", "group_size", "at least 2", "group_size=2"),
    (REINFORCE + "advantage=batch_mean batch_size=1", "batch_size", "at least 2", "batch_size=2"),
    ("advantage=remax group_size=2", "group_size", "must be 1", "group_size=1"),
    (RAFT + "surrogate=clip", "surrogate", "use reinforce", RAFT),
    (RAFT + "whiten_advantages=center", "whiten_advantages", "use none", RAFT),
    ("dynamic_sampling=2", "dynamic_sampling", "gae has no groups; use 1", GRPO),
    (GRPO + "whiten_rewards=scale", "whiten_rewards", "use none", "advantage=reinforce_pp"),
    (GRPO + "gamma=0.9", "gamma", "use 1", "advantage=monte_carlo"),
    (GRPO + "score_placement=after_eos", "score_placement", "use last_token", "advantage=gae"),
    # KL to the reference.
    ("kl_importance=true", "kl_importance", "algo.kl_placement=loss", "kl_placement=loss"),
    (
        REINFORCE + "kl_importance=true kl_placement=loss",
        "kl_importance",
        "no probability ratio",
        "surrogate=clip",
    ),
    ("kl_placement=none", "kl_controller", "no KL term to steer", FIXED),
    ("kl_coef=0.0", "kl_coef", "use algo.kl_controller=fixed", FIXED),
    ("kl_horizon=12.8", "kl_horizon", "above 0.2 * algo.batch_size = 12.8", FIXED),
    ("kl_unit=token", "kl_target", "144 nats a text of 24 tokens", "kl_target=0.25"),
    ("kl_unit=token", "kl_target", "at most 1", FIXED),
    # Scores.
    ("overlong_buffer=24", "overlong_buffer", "below sampling.max_length=24", "overlong_buffer=23"),
    (
        "mask_truncated=true sampling.stop_at_eos=false",
        "mask_truncated",
        "fixed length",
        "mask_truncated=false",
    ),
    (
        NO_END + "mask_truncated=true",
        "mask_truncated",
        "nothing would be learnt",
        "sampling.min_length=23",
    ),
    (
        NO_END + "overlong_buffer=3",
        "overlong_buffer",
        "makes all texts as long",
        "overlong_buffer=0",
    ),
    (NO_END + "missing_eos=replace", "missing_eos", "forbids every end", "sampling.min_length=1"),
    # Values.
    (GRPO + "value_warmup=3", "value_warmup", "no value function", "value_warmup=0"),
    (GRPO + "value_loss=huber", "value_loss", "no value function", "value_loss=squared"),
    (GRPO + "clip_value=false", "clip_value", "no value function", "advantage=gae"),
    (
        GRPO + "model.value_head=shared",
        "model.value_head",
        "has no value function; use separate",
        "advantage=monte_carlo",
    ),
    ("value_warmup=3 vf_coef=0.0", "value_warmup", "teaches the values nothing", "vf_coef=0.1"),
    ("value_warmup=100", "value_warmup", "below algo.updates=100", "value_warmup=99"),
    (
        "model.value_head=top_k_layers model.value_layers=3",
        "model.value_layers",
        "at most model.layers=2",
        "model.value_layers=2",
    ),
    (
        GRPO + "optim.value_rate_factor=0.1",
        "optim.value_rate_factor",
        "no value function; use null",
        "advantage=monte_carlo",
    ),
    (
        "reward_model.optim.value_rate_factor=0.1",
        "reward_model.optim.value_rate_factor",
        "this stage has no value function",
        "reward_model.optim.value_rate_factor=null",
    ),
    # Any algorithm's.
    ("name=my.run", "name", "a word of letters", "name=my-run_2"),
    ("name=sft", "name", "none of sft", "name=sft2"),
    (
        "model.dtype=bfloat16",
        "behavior_log_probs",
        "use forward with model.dtype=bfloat16",
        "behavior_log_probs=forward",
    ),
]
DPO = [
    ("loss=ipo label_smoothing=0.1", "label_smoothing", "ipo has none; use 0", "loss=simpo"),
    ("margin=0.3", "margin", "dpo has none; use 0.5, or algo.loss=simpo", "loss=simpo"),
    ("desirable_weight=2.0", "desirable_weight", "pairs, not texts", "loss=kto"),
    ("undesirable_weight=2.0", "undesirable_weight", "use 1", "undesirable_weight=1.0"),
    (
        "optim.value_rate_factor=0.1",
        "optim.value_rate_factor",
        "dpo has no value function",
        "optim.value_rate_factor=null",
    ),
    (
        "model.value_head=separate_matched",
        "model.value_head",
        "dpo has no value function",
        "model.value_head=separate",
    ),
]
ONLINE_DPO = [
    ("batch_size=7", "batch_size", "even", "batch_size=8"),
    (NO_END + "missing_eos=subtract", "missing_eos", "use none", "missing_eos=none"),
    (
        "sampling.stop_at_eos=false",
        "sampling.stop_at_eos",
        "online_dpo does not learn from what follows an end; use true",
        "sampling.stop_at_eos=true",
    ),
    (
        "run.matmul_precision=bfloat16",
        "behavior_log_probs",
        "use forward with run.matmul_precision=bfloat16",
        "behavior_log_probs=forward",
    ),
]
FIXED_DATA = [
    (
        "optim.value_rate_factor=0.1",
        "optim.value_rate_factor",
        "has no value function",
        "optim.value_rate_factor=null",
    ),
    (
        "sft.optim.value_rate_factor=0.1",
        "sft.optim.value_rate_factor",
        "this stage has no value function",
        "sft.optim.value_rate_factor=null",
    ),
]
KINDS = [
    (PolicyGradientConfig, PPO),
    (PreferenceConfig, DPO),
    (OnlineDPOConfig, ONLINE_DPO),
    (RejectionConfig, FIXED_DATA),
    (BestOfNConfig, FIXED_DATA),
]
RULES = [(kind, *rule) for kind, rules in KINDS for rule in rules]


def full(key):
    """A key, with `algo.` where it was left out."""
    return key if "." in key else f"algo.{key}"


def with_setting(config, key, value):
    head, _, rest = key.partition(".")
    if rest:
        value = with_setting(getattr(config, head), rest, value)
    return dataclasses.replace(config, **{head: value})


def with_settings(kind, text):
    """A config with the settings of a text; the last of equal keys counts."""
    config = RLHFConfig(task=ReviewsConfig(), algo=kind())
    for setting in text.split():
        key, _, value = setting.partition("=")
        config = with_setting(config, full(key), yaml.safe_load(value))
    return config


def value_of(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize("kind, given, key, accepted, mended", RULES)
def test_a_bad_combination_is_named_and_can_be_mended(kind, given, key, accepted, mended):
    config = with_settings(kind, given)
    with pytest.raises(ConfigError) as caught:
        check_config(config)
    message = str(caught.value)
    assert message.startswith(f"{full(key)}={value_of(config, full(key))!r}: ")
    assert accepted in message and "\n" not in message
    check_config(with_settings(kind, f"{given} {mended}"))


def refusals(module):
    """The lines of a module that refuse something."""
    found = ast.walk(ast.parse(inspect.getsource(module)))
    return {(module.__file__, node.lineno) for node in found if isinstance(node, ast.Yield)}


def place(generator):
    """Where the innermost generator of a chain stands."""
    while generator.gi_yieldfrom is not None:
        generator = generator.gi_yieldfrom
    return generator.gi_frame.f_code.co_filename, generator.gi_frame.f_lineno


def test_every_refusal_has_an_example():
    reached = set()
    for kind, given, *_ in RULES:
        found = algo.problems(with_settings(kind, given))
        next(found)
        reached.add(place(found))
    wanted = refusals(algo) | refusals(policy_gradient) | refusals(rewards)
    assert len(wanted) > 40 and sorted(wanted - reached) == []


IDLE = [
    "dual_clip=4.0",
    "penalty_target=0.02",
    "huber_delta=0.5",
    "missing_eos_penalty=2.0",
    "overlong_penalty=0.5",
    "clip_value=false value_clip_eps=0.5",
    FIXED + "kl_target=3.0 kl_unit=token",
    "epochs=1 minibatches=1 target_kl=0.02",
]


@pytest.mark.parametrize("settings", IDLE)
def test_a_number_may_stand_ready_for_a_switch_that_is_off(settings):
    check_config(with_settings(PolicyGradientConfig, settings))
