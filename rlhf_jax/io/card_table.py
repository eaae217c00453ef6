"""A report card on the terminal: how close each algorithm came, and whether to believe it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_jax.report.card_numbers import FEW_SEEDS, cautions, cell, task_name
from rlhf_jax.report.names import algorithm

Line = Mapping[str, Any]
WITHOUT_INTERVAL = {
    "budget": "samples",
    "own_gap": "own aim",
    "beta_ratio": "β_eff/β",
    "beta_r2": "R²",
    "kl_efficiency": "KL eff.",
    "seconds": "s",
}
WIDE = 120  # columns from which all of them fit
IF_NARROW = ("own_gap", "beta_ratio")
KEY = (
    "samples: completions drawn, or read in pairs. gap: (J* - J) / (J* - J of the reference), 0 at "
    "the optimum, 1 where training starts; IQM over instances and seeds [95 % stratified "
    "bootstrap]. own aim: the same to the point the algorithm aims at. β_eff/β: the price of KL it "
    "behaves by, over the one asked. above: points above the Gibbs envelope, 0 unless something is "
    "wrong. runs: instances x seeds. lost: runs that diverged. *: calibration."
)


def print_card(
    lines: Sequence[Line], gates: Sequence[Mapping[str, Any]] = (), console: Console | None = None
) -> None:
    """Prints a table for each task, what to beware of, and the gates.

    Args:
      lines: from `rlhf_jax.report.card.table`.
      gates: of the card.
      console: where to; the standard output by default.
    """
    console = console or Console()
    for task in dict.fromkeys(line["task"] for line in lines):
        own = [line for line in lines if line["task"] == task]
        names = tuple(WITHOUT_INTERVAL) if console.width >= WIDE else IF_NARROW
        console.print(task_table(task_name(task), own, names))
    console.print(Text(KEY, style="dim"))
    for note in cautions(lines):
        console.print(Text(note, style="bold red"))
    for gate in gates:
        console.print(gate_line(gate))


def task_table(title: str, lines: Sequence[Line], names: Sequence[str]) -> Table:
    """The lines of a task, calibration below a rule; `names` of numbers beside the gap."""
    found = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", padding=0)
    found.add_column("", no_wrap=True)
    for heading in ("gap", *(WITHOUT_INTERVAL[name] for name in names), "above", "runs", "lost"):
        found.add_column(heading, justify="right", no_wrap=True)
    for line, following in zip(lines, [*lines[1:], None]):
        last = following is not None and following["kind"] != line["kind"]
        found.add_row(*cells(line, names), end_section=last)
    return found


def cells(line: Line, names: Sequence[str]) -> list[Text]:
    """What the table says of one algorithm; alarming counts are red."""
    trained = line["kind"] == "trained"
    few = trained and line["seeds"] < FEW_SEEDS
    numbers = [one_number(line, name) for name in names]
    return [
        Text(algorithm(line["algo"]) + ("" if trained else " *")),
        Text(" ".join(cell(line["gap"], line["runs"])).strip()),
        *map(Text, numbers),
        _alarm(line["above_envelope"]),
        Text(f"{line['instances']}x{line['seeds']}", style="bold red" if few else ""),
        _alarm(line["not_finite"]),
    ]


def one_number(line: Line, name: str) -> str:
    """A number of a line without its interval."""
    found = line[name]
    return f"{found / 1024:.0f}k" if name == "budget" else cell(found, line["runs"])[0]


def gate_line(gate: Mapping[str, Any]) -> Text:
    """Whether a gate was passed, what was wanted and what was found."""
    mark = ("passed", "green") if gate["passed"] else ("MISSED", "bold red")
    return Text.assemble(mark, f"  {gate['name']}: wanted {gate['wanted']}, found {gate['found']}")


def _alarm(count: int) -> Text:
    return Text(str(count), style="bold red" if count else "")
