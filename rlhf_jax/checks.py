"""Settings that cannot work are refused before anything is computed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlhf_jax.config import ConfigError, ModelConfig, OptimConfig, PPOConfig, RLHFConfig

if TYPE_CHECKING:  # importing it would import jax, which must wait for the runtime's set-up
    from rlhf_jax.tasks.protocol import Task

POSITIVE = {
    "layers", "width", "heads", "kv_heads", "ff_width", "context", "rope_theta", "steps",
    "batch_size", "log_every", "learning_rate", "max_grad_norm", "epsilon", "temperature",
    "max_length", "updates", "epochs", "minibatches", "kl_target", "kl_horizon", "num_pairs",
    "num_prompts", "num_texts", "checkpoint_every", "keep_checkpoints", "max_skipped",
    "stall_seconds", "threads", "clip_eps", "value_clip_eps", "annotator_temperature",
    "vocab_size", "text_length", "pair_length", "min_prompt", "max_prompt",
}  # fmt: skip
NOT_NEGATIVE = {
    "top_k", "min_length", "vf_coef", "kl_coef", "entropy_coef", "weight_decay", "final_scale",
    "missing_eos_penalty", "centering_coef", "margin", "num_samples", "seed", "data_seed",
}  # fmt: skip
SHARES = {"gamma", "gae_lambda"}  # in [0, 1]


def leaves(config: object, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field, object]]:
    """Every setting as (dotted key, field, value)."""
    for f in dataclasses.fields(config):  # pyright: ignore[reportArgumentType]
        value = getattr(config, f.name)
        if dataclasses.is_dataclass(value):
            yield from leaves(value, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", f, value


def check_config(config: RLHFConfig) -> None:
    """Raises ConfigError for the first setting that cannot work."""
    for key, f, value in leaves(config):
        check_leaf(key, f, value)
    check_model("model", config.model)
    for key, optim in (
        ("optim", config.optim),
        ("sft.optim", config.sft.optim),
        ("reward_model.optim", config.reward_model.optim),
    ):
        check_optim(key, optim)
    check_ppo(config.algo, config.model)
    check_lengths(config)


def check_leaf(key: str, f: dataclasses.Field, value: object) -> None:
    """Choices, signs and finiteness of one setting."""
    choices = f.metadata.get("choices")
    if choices and value not in choices:
        raise ConfigError(key, value, f"must be one of {', '.join(choices)}")
    if value is None or isinstance(value, (str, bool)) or not isinstance(value, (int, float)):
        return
    if not math.isfinite(value):
        raise ConfigError(key, value, "must be finite")
    if f.name in POSITIVE and value <= 0:
        raise ConfigError(key, value, "must be above 0")
    if f.name in NOT_NEGATIVE and value < 0:
        raise ConfigError(key, value, "must be 0 or above")
    if f.name == "top_p" and not 0 < value <= 1:
        raise ConfigError(key, value, "must be above 0 and at most 1")
    if f.name in SHARES and not 0 <= value <= 1:
        raise ConfigError(key, value, "must be between 0 and 1")


def check_model(key: str, model: ModelConfig) -> None:
    """Head counts that divide."""
    if model.width % (2 * model.heads):
        accepted = f"must divide width={model.width} into heads of even size"
        raise ConfigError(f"{key}.heads", model.heads, accepted)
    if model.heads % model.kv_heads:
        raise ConfigError(f"{key}.kv_heads", model.kv_heads, f"must divide heads={model.heads}")


def check_optim(key: str, optim: OptimConfig) -> None:
    """Ranges of Adam and of the schedule."""
    if not 0 <= optim.warmup < 1:
        raise ConfigError(f"{key}.warmup", optim.warmup, "a share of all steps, in [0, 1)")
    for name in ("beta1", "beta2"):
        if not 0 <= getattr(optim, name) < 1:
            raise ConfigError(f"{key}.{name}", getattr(optim, name), "must be in [0, 1)")


def check_ppo(algo: PPOConfig, model: ModelConfig) -> None:
    """Minibatches that divide the batch, and log-probabilities that can be trusted."""
    if algo.batch_size % algo.minibatches:
        divisors = [n for n in range(1, algo.batch_size + 1) if algo.batch_size % n == 0]
        accepted = f"must divide algo.batch_size={algo.batch_size} (one of {divisors})"
        raise ConfigError("algo.minibatches", algo.minibatches, accepted)
    if algo.clip_eps >= 1:
        raise ConfigError("algo.clip_eps", algo.clip_eps, "must be below 1")
    if model.dtype != "float32" and algo.behavior_log_probs == "sampler":
        accepted = f"use forward with model.dtype={model.dtype}: cached decoding rounds otherwise"
        raise ConfigError("algo.behavior_log_probs", algo.behavior_log_probs, accepted)


def check_lengths(config: RLHFConfig) -> None:
    """Texts that fit the context."""
    sampling, context = config.sampling, config.model.context
    if sampling.min_length > sampling.max_length:
        accepted = f"must be at most sampling.max_length={sampling.max_length}"
        raise ConfigError("sampling.min_length", sampling.min_length, accepted)
    prompt = getattr(config.task, "max_prompt", 0) + 1  # and BOS
    needed = prompt + sampling.max_length
    if needed > context:
        accepted = (
            f"prompts of up to {prompt} tokens (task.max_prompt and BOS) and completions of "
            f"sampling.max_length={sampling.max_length} need at least {needed}"
        )
        raise ConfigError("model.context", context, accepted)
    for name in ("text_length", "pair_length"):
        length = getattr(config.task, name, 0)
        if length > context:
            raise ConfigError(f"task.{name}", length, f"must be at most model.context={context}")
    low, high = (getattr(config.task, n, 1) for n in ("min_prompt", "max_prompt"))
    if low > high:
        raise ConfigError("task.min_prompt", low, f"must be at most task.max_prompt={high}")


def check_task(config: RLHFConfig, task: Task) -> None:
    """Data that fits the model and the reward asked for."""
    if config.task.reward == "gold" and task.gold is None:
        accepted = f"{task.name} has no gold reward; use reward_model or package.module:function"
        raise ConfigError("task.reward", config.task.reward, accepted)
    longest = max(
        part.tokens.shape[1]
        for part in (task.train_text, task.heldout_text, task.train_pairs.chosen)
    )
    needed = max(longest, task.train_prompts.tokens.shape[1] + config.sampling.max_length)
    if needed > config.model.context:
        accepted = f"texts of {task.name} need a context of at least {needed}"
        raise ConfigError("model.context", config.model.context, accepted)
