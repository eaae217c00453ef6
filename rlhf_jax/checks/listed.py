"""Settings that do not go with a task whose completions are listed, or have no end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rlhf_jax.checks.rewards import Problem
from rlhf_jax.config import AutomatonConfig, EnumerableConfig, RLHFConfig

if TYPE_CHECKING:  # importing it would import jax, which must wait for the runtime's set-up
    from rlhf_jax.tasks.protocol import Task


def of_task(config: RLHFConfig, task: Task) -> Iterator[Problem]:
    """Everything about sampling and scores that a task with a known optimum cannot have."""
    if not task.codec.ends:
        yield from of_fixed_length(config, task)
    if task.exact is None and task.sampled_gap is None:
        return
    assert isinstance(config.task, EnumerableConfig | AutomatonConfig)
    sampling, length = config.sampling, config.task.length
    if sampling.max_length != length:
        yield "sampling.max_length", sampling.max_length, f"must be task.length={length}"
    for name, off in (("top_k", 0), ("top_p", 1.0)):
        value = getattr(sampling, name)
        if value != off:
            accepted = f"must be {off:g}: what is known of {task.name} is of whole distributions"
            yield f"sampling.{name}", value, accepted
    if task.exact is None:
        return
    if sampling.min_length != 1:
        yield "sampling.min_length", sampling.min_length, f"must be 1: {task.name} lists its texts"
    if not sampling.stop_at_eos and task.codec.ends:
        accepted = f"must be true: {task.name} lists texts up to their end"
        yield "sampling.stop_at_eos", False, accepted


def of_fixed_length(config: RLHFConfig, task: Task) -> Iterator[Problem]:
    """Rules about the end of a text, where no text has one."""
    off = {"missing_eos": "none", "mask_truncated": False, "overlong_buffer": 0}
    for name, value in off.items():
        found = getattr(config.algo, name, value)
        if found != value:
            yield f"algo.{name}", found, f"texts of {task.name} have no end; use {value}"
