"""The end of an audit on the terminal: every loss, and what its KL term is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_jax.io.console import short_number

Row = Mapping[str, Any]
NOISE = 0.5  # cosine between the halves of a rollout
COSINES = {
    "token": "the exact KL of each token, given the text before it",
    "text": "the KL of whole texts: the same, and what each token does to later ones",
    "halves": "itself, between the two halves of the rollout; near 0 it is noise",
}


def print_audit(record: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints where the audit looked, its check and both tables.

    Args:
      record: the content of `audit.json`.
      console: where to; the standard output by default.
    """
    console = console or Console()
    place, first = record["place"], record["first_step"]
    own = record["own"]
    headings = {"loss": "loss", "grad_norm": "gradient", "clip_fraction": "clipped"}
    headings |= {"cosine": f"cos {own}", "halves": "cos halves"}
    console.print(table("Every loss on the same samples", record["arms"], headings))
    headings = {"kl": "KL", "grad_norm": "gradient", "cosine_token": "cos token"}
    headings |= {"cosine_text": "cos text", "halves": "cos halves"}
    console.print(table("The KL terms alone", record["kl_terms"], headings))
    for line in lines(record["arms"], record["kl_terms"], place, first):
        console.print(Text(line), soft_wrap=True)


def table(title: str, rows: Sequence[Row], headings: Mapping[str, str]) -> Table:
    """Rows in their groups; a column for each number."""
    found = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    found.add_column("")
    for heading in headings.values():
        found.add_column(heading, justify="right", no_wrap=True)
    for row, following in zip(rows, [*rows[1:], None]):
        last = following is not None and following["group"] != row["group"]
        name = f"{row['name']}{' *' if row['note'] else ''}"
        cells = [name, *(cell(row[key]) for key in headings)]
        found.add_row(*map(Text, cells), end_section=last)
    return found


def cell(value: float | None) -> str:
    """A number, or a dash where there is none."""
    return "-" if value is None else short_number(value)


def lines(arms: Sequence[Row], terms: Sequence[Row], place: Row, first: Row) -> list[str]:
    """What must be known to read the tables."""
    notes = [f"* {arm['name']} {arm['note']}." for arm in arms if arm["note"]]
    known = [row for row in (*arms, *terms) if row["halves"] is not None]
    noisy = [row["name"] for row in known if row["halves"] < NOISE]
    if noisy:
        notes.append(f"Mostly noise (halves below {NOISE}), draw more: {', '.join(noisy)}.")
    steps = f"{place['steps']} of {place['steps_per_update']} optimizer steps"
    cosine, error = cell(first["cosine"]), f"{first['ratio_error']:.1g}"
    return [
        "gradient: its length. cos: cosine of the gradient with that of another loss:",
        *(f"  {name:<7} {meaning}" for name, meaning in COSINES.items()),
        *notes,
        f"Policy: {place['policy']} on {place['task']} after {place['updates']} updates, "
        f"{short_number(place['kl'])} nats/text from the reference; KL coefficient "
        f"{short_number(place['kl_coef'])}.",
        f"Rollout: {place['completions']} completions, {place['tokens']} tokens; compared after "
        f"{steps}, largest ratio {short_number(place['ratio_max'])}.",
        "Check: before the first step the surrogates are one "
        f"(smallest cosine {cosine}, largest |ratio - 1| {error}).",
    ]
