"""The end of a run on the terminal: numbers and texts before and after training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from rlhf_jax.io.console import short_number
from rlhf_jax.report.names import algorithm, describe

WIDE = 110  # columns from which the table also explains its rows


def print_comparison(
    before: Mapping[str, float | None],
    after: Mapping[str, float | None],
    console: Console | None = None,
    *,
    name: str = "ppo",
) -> None:
    """Prints the before/after table.

    Args:
      before: metric name to value for the policy that was started from.
      after: the same for the trained policy; a metric may be in one only.
      name: of the algorithm.
      console: where to; the standard output by default.
    """
    console = console or Console()
    table = Table(
        box=box.SIMPLE_HEAD, title=f"Before and after {algorithm(name)}", title_justify="left"
    )
    table.add_column("")
    for heading in ("before (SFT)", f"after ({algorithm(name)})", "change"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("unit", style="dim", no_wrap=True)
    wide = console.width >= WIDE
    if wide:
        table.add_column("what it says", style="dim")
    for metric in dict.fromkeys([*before, *after]):
        old, new = before.get(metric), after.get(metric)
        quantity = describe(metric)
        cells = [quantity.label, _cell(old), _cell(new), _change(old, new), quantity.unit]
        table.add_row(*map(Text, cells + [quantity.meaning] * wide))
    console.print(table)


def print_samples(
    samples: Sequence[Mapping[str, Any]], console: Console | None = None, *, name: str = "ppo"
) -> None:
    """Prints completions side by side.

    Args:
      samples: one mapping a prompt: `prompt`, `before` and `after` (texts), and where known
        `before_scores` and `after_scores` (name to value).
      console: where to; the standard output by default.
      name: of the algorithm.
    """
    console = console or Console()
    table = Table(
        box=box.SIMPLE_HEAD,
        title="The same prompts, completed before and after",
        title_justify="left",
        expand=True,
        show_lines=True,
    )
    sides = (("before (SFT)", 3), (f"after ({algorithm(name)})", 3))
    for heading, ratio in (("prompt", 2), *sides):
        table.add_column(heading, ratio=ratio, overflow="fold")
    for sample in samples:
        texts = [_completion(sample, side) for side in ("before", "after")]
        table.add_row(Text(str(sample["prompt"])), *texts)
    console.print(table)


def print_run_dir(path: object, console: Console | None = None) -> None:
    """Prints where everything was written, on a line of its own so that it can be copied."""
    console = console or Console()
    console.print(Text(f"Everything is in {path}"), soft_wrap=True)


def _completion(sample: Mapping[str, Any], side: str) -> Group:
    scores = sample.get(f"{side}_scores") or {}
    line = "  ".join(f"{describe(name).label} {_cell(v)}" for name, v in scores.items())
    return Group(Text(str(sample[side])), *([Text(line, style="cyan")] if line else []))


def _cell(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "-"
    return short_number(value)


def _change(old: float | None, new: float | None) -> str:
    if old is None or new is None or not math.isfinite(new - old):
        return ""
    return f"{'+' if new >= old else ''}{short_number(new - old)}"
