"""Answers of a finished run on the terminal: the tuned model beside the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from rlhf_jax.io.console import short_number
from rlhf_jax.report.names import algorithm, describe

SHOWN = ("gold/score", "objective/scores", "log_ratio")


def print_answers(
    answers: Sequence[Mapping[str, Any]], console: Console | None = None, *, name: str = "ppo"
) -> None:
    """Prints completions side by side, one table a prompt.

    Args:
      answers: one mapping a completion: `prompt`, and `tuned` and `reference`, each with `text`,
        `finished` and what is known about it by metric name.
      console: where to; the standard output by default.
      name: of the algorithm that tuned the model.
    """
    console = console or Console()
    for prompt in dict.fromkeys(a["prompt"] for a in answers):
        table = Table(box=box.SIMPLE_HEAD, expand=True, show_lines=True, title_justify="left")
        table.title = Text(prompt or "(empty prompt)", style="bold")
        for heading in (f"tuned ({algorithm(name)})", "reference (SFT)"):
            table.add_column(heading, ratio=1, overflow="fold")
        for answer in answers:
            if answer["prompt"] == prompt:
                table.add_row(*(_cell(answer[side]) for side in ("tuned", "reference")))
        console.print(table)


def _cell(side: Mapping[str, Any]) -> Group:
    text = side["text"] + ("" if side["finished"] else " ...")
    numbers = [
        Text.assemble((f"{describe(name).label} ", "dim"), (short_number(side[name]), "cyan"))
        for name in SHOWN
        if name in side
    ]
    return Group(Text(text), *numbers)
