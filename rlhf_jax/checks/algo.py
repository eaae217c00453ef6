"""Combinations of an algorithm's switches that cannot work are refused, with the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlhf_jax.checks.policy_gradient import Problem, of_policy_gradient
from rlhf_jax.config import (
    AlgoConfig,
    ConfigError,
    ModelConfig,
    OnlineDPOConfig,
    PolicyGradientConfig,
    PreferenceConfig,
    RLHFConfig,
)

RESERVED = ("sft", "reward_model", "evaluate", "reference", "samples")


def check_algo(config: RLHFConfig) -> None:
    """Raises ConfigError for the first switch that cannot work with the others."""
    for key, value, accepted in problems(config):
        raise ConfigError(key, value, accepted)


def problems(config: RLHFConfig) -> Iterator[Problem]:
    """Everything wrong with the algorithm's settings, most basic first."""
    algo = config.algo
    yield from of_name(algo)
    if isinstance(algo, PolicyGradientConfig):
        yield from of_policy_gradient(config, algo)
    if isinstance(algo, OnlineDPOConfig) and algo.batch_size % 2:
        yield "algo.batch_size", algo.batch_size, "must be even: two completions of each prompt"
    if isinstance(algo, PreferenceConfig):
        yield from of_preferences(algo)
    yield from of_ends(config)
    yield from of_value_function(config)
    yield from of_log_probs(config)


def of_name(algo: AlgoConfig) -> Iterator[Problem]:
    """The name stands in file names and beside the stages' names."""
    if not re.fullmatch(r"[A-Za-z][\w-]*", algo.name) or algo.name in RESERVED:
        accepted = f"must be a word of letters, digits, - and _, and none of {', '.join(RESERVED)}"
        yield "algo.name", algo.name, accepted


def of_preferences(algo: PreferenceConfig) -> Iterator[Problem]:
    """Numbers only some of the losses read."""
    if algo.label_smoothing and algo.loss not in ("dpo", "robust", "simpo"):
        accepted = f"{algo.loss} has none; use 0, or algo.loss=dpo, robust or simpo"
        yield "algo.label_smoothing", algo.label_smoothing, accepted
    if algo.margin != PreferenceConfig.margin and algo.loss != "simpo":
        accepted = f"{algo.loss} has none; use {PreferenceConfig.margin:g}, or algo.loss=simpo"
        yield "algo.margin", algo.margin, accepted
    for name in ("desirable_weight", "undesirable_weight"):
        if getattr(algo, name) != 1 and algo.loss != "kto":
            accepted = f"{algo.loss} weighs pairs, not texts; use 1, or algo.loss=kto"
            yield f"algo.{name}", getattr(algo, name), accepted


def of_ends(config: RLHFConfig) -> Iterator[Problem]:
    """Rules about the end of a text, where texts can have one."""
    algo, sampling = config.algo, config.sampling
    missing_eos = getattr(algo, "missing_eos", "none")
    if missing_eos != "none" and sampling.min_length >= sampling.max_length:
        accepted = (
            f"sampling.min_length={sampling.min_length} forbids every end, so that all texts "
            "would be charged alike; use none, or a smaller sampling.min_length"
        )
        yield "algo.missing_eos", missing_eos, accepted
    if getattr(algo, "overlong_buffer", 0) and sampling.min_length >= sampling.max_length:
        accepted = f"sampling.min_length={sampling.min_length} makes all texts as long; use 0"
        yield "algo.overlong_buffer", getattr(algo, "overlong_buffer", 0), accepted
    if not sampling.stop_at_eos and not isinstance(algo, PolicyGradientConfig):
        accepted = f"{algo.name} does not learn from what follows an end; use true"
        yield "sampling.stop_at_eos", False, accepted


def of_value_function(config: RLHFConfig) -> Iterator[Problem]:
    """A network and an optimizer of the values' own, where there are values."""
    rate, algo, head = config.optim.value_rate_factor, config.algo, config.model.value_head
    critic = isinstance(algo, PolicyGradientConfig) and algo.critic
    if rate is not None and not critic:
        accepted = f"{algo.name} has no value function; use null"
        yield "optim.value_rate_factor", rate, accepted
    if head != ModelConfig.value_head and not critic:
        accepted = f"{algo.name} has no value function; use {ModelConfig.value_head}"
        yield "model.value_head", head, accepted
    for stage in ("sft", "reward_model"):
        rate = getattr(config, stage).optim.value_rate_factor
        if rate is not None:
            accepted = "this stage has no value function; use null"
            yield f"{stage}.optim.value_rate_factor", rate, accepted


def of_log_probs(config: RLHFConfig) -> Iterator[Problem]:
    """Log-probabilities of the sampler are trusted in full precision only."""
    source = getattr(config.algo, "behavior_log_probs", "forward")
    settings = {"model.dtype": config.model.dtype}
    settings["run.matmul_precision"] = config.run.matmul_precision
    for key, value in settings.items():
        if source == "sampler" and value != "float32":
            accepted = f"use forward with {key}={value}: cached decoding rounds otherwise"
            yield "algo.behavior_log_probs", source, accepted
