"""Settings that cannot work are refused before anything is computed."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlhf_jax.checks.algo import check_algo
from rlhf_jax.checks.listed import of_task
from rlhf_jax.config import (
    ConfigError,
    JsonlConfig,
    ModelConfig,
    RLHFConfig,
    SamplingConfig,
    TaskConfig,
)

if TYPE_CHECKING:  # importing it would import jax, which must wait for the runtime's set-up
    from rlhf_jax.tasks.protocol import Task

REWARD_FUNCTION = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


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
    check_source(config.task)
    check_model("model", config.model)
    check_algo(config)
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
    allowed = f.metadata.get("range")
    if allowed and not allowed.holds(value):
        raise ConfigError(key, value, allowed.accepted)


def check_source(task: TaskConfig) -> None:
    """The kind of task, its files and the form of its reward."""
    if task.name != type(task).name:
        accepted = (
            f"the settings are those of {type(task).name}; choose the task by task={task.name}"
        )
        raise ConfigError("task.name", task.name, accepted)
    if isinstance(task, JsonlConfig):
        if not task.prompts:
            accepted = 'give a file of {"prompt"} lines'
            raise ConfigError("task.prompts", task.prompts, accepted)
        if not task.preferences:
            accepted = 'give a file of {"prompt", "chosen", "rejected"} lines'
            raise ConfigError("task.preferences", task.preferences, accepted)
    named = ("reward_model", "gold", *task.named_rewards)
    if task.reward not in named and not REWARD_FUNCTION.fullmatch(task.reward):
        accepted = f"must be {', '.join(named)} or package.module:function"
        raise ConfigError("task.reward", task.reward, accepted)


def check_model(key: str, model: ModelConfig) -> None:
    """Head counts that divide, and an attention kernel that takes them."""
    if model.width % (2 * model.heads):
        accepted = f"must divide width={model.width} into heads of even size"
        raise ConfigError(f"{key}.heads", model.heads, accepted)
    if model.heads % model.kv_heads:
        raise ConfigError(f"{key}.kv_heads", model.kv_heads, f"must divide heads={model.heads}")
    if model.attention == "cudnn":
        width = model.width // model.heads
        if model.dtype != "bfloat16":
            accepted = f"needs {key}.dtype=bfloat16; own and xla take {model.dtype}"
            raise ConfigError(f"{key}.attention", "cudnn", accepted)
        if width % 8 or width > 128:
            accepted = f"needs heads of 8, 16, ... 128, not {width}; own and xla take any"
            raise ConfigError(f"{key}.attention", "cudnn", accepted)


def check_lengths(config: RLHFConfig) -> None:
    """Texts that fit the context."""
    sampling, context = config.sampling, config.model.context
    if sampling.min_length > sampling.max_length:
        accepted = f"must be at most sampling.max_length={sampling.max_length}"
        raise ConfigError("sampling.min_length", sampling.min_length, accepted)
    check_room(config)
    for name in ("text_length", "pair_length"):
        length = getattr(config.task, name, 0)
        if length > context:
            raise ConfigError(f"task.{name}", length, f"must be at most model.context={context}")
    low, high = (getattr(config.task, n, 1) for n in ("min_prompt", "max_prompt"))
    if low > high:
        raise ConfigError("task.min_prompt", low, f"must be at most task.max_prompt={high}")


def check_room(config: RLHFConfig) -> None:
    """Prompt and completion fit the context; blames the setting that was moved to where it is."""
    task, length, context = config.task, config.sampling.max_length, config.model.context
    prompt = getattr(task, "max_prompt", 0)
    needed = 1 + prompt + length
    if needed <= context:
        return
    accepted = (
        f"BOS, task.max_prompt={prompt} and sampling.max_length={length} "
        f"need model.context={context} to be at least {needed}"
    )
    if context >= ModelConfig.context and prompt > getattr(type(task), "max_prompt", 0):
        raise ConfigError("task.max_prompt", prompt, accepted)
    if context >= ModelConfig.context and length > SamplingConfig.max_length:
        raise ConfigError("sampling.max_length", length, accepted)
    raise ConfigError("model.context", context, accepted)


def check_task(config: RLHFConfig, task: Task) -> None:
    """Data that fits the model and the reward asked for."""
    if config.task.reward == "gold" and task.gold is None:
        accepted = f"{task.name} has no gold reward; use reward_model or package.module:function"
        raise ConfigError("task.reward", config.task.reward, accepted)
    if config.reward_model.margin > 0 and not task.train_pairs.margin.any():
        accepted = f"the pairs of {task.name} have no margins; use 0"
        raise ConfigError("reward_model.margin", config.reward_model.margin, accepted)
    for key, value, accepted in of_task(config, task):
        raise ConfigError(key, value, accepted)
    longest = max(
        part.tokens.shape[1]
        for part in (task.train_text, task.heldout_text, task.train_pairs.chosen)
    )
    needed = max(longest, task.train_prompts.tokens.shape[1] + config.sampling.max_length)
    if needed > config.model.context:
        accepted = f"texts of {task.name} need a context of at least {needed}"
        raise ConfigError("model.context", config.model.context, accepted)
