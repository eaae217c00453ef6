"""The report card: one page that says how close every algorithm comes to a known optimum."""

from __future__ import annotations

import base64
import io
import json
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from rlhf_jax.io.atomic import replacing
from rlhf_jax.report import style
from rlhf_jax.report.card_numbers import (
    FEW_SEEDS,
    METRICS,
    Card,
    cautions,
    cell,
    load_card,
    table,
    task_name,
)
from rlhf_jax.report.card_plots import draw_frontier, draw_gap, gap_curves, shown_instance
from rlhf_jax.report.names import algorithm
from rlhf_jax.report.stats import LEVEL, REPS

__all__ = ["load_card", "markdown", "table", "write_page"]

Line = Mapping[str, Any]
IN_MARKDOWN = tuple(name for name in METRICS if name != "beta_ratio")


def write_page(directory: str | os.PathLike[str]) -> Path:
    """Writes `index.html`, a page that needs nothing else, from `card.json` of a directory.

    Returns:
      The page's path.

    Raises:
      FileNotFoundError: there is no `card.json`.
      ValueError: see `load_card`.
    """
    path = Path(directory) / "index.html"
    page = render(load_card(directory))
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def render(card: Card) -> str:
    """The page as text."""
    text = (files("rlhf_jax.report") / "card.html.jinja").read_text(encoding="utf-8")
    world = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    world.filters |= {"algorithm": algorithm, "task": task_name, "cell": cell}
    lines = table(card)
    tasks = list(dict.fromkeys(line["task"] for line in lines))
    return world.from_string(text).render(
        card=card,
        settings=json.dumps(card["settings"], indent=2, ensure_ascii=False),
        lines=lines,
        tasks=tasks,
        columns={name: m.label for name, m in METRICS.items() if _shown(lines, name)},
        pictures={task: pictures(card, task) for task in tasks},
        instances={task: shown_instance(card, task) for task in tasks},
        cautions=cautions(lines),
        missed=[gate for gate in card["gates"] if not gate["passed"]],
        few=FEW_SEEDS,
        level=f"{100 * LEVEL:.0f} %",
        reps=REPS,
    )


def pictures(card: Card, task: str) -> list[dict[str, Any]]:
    """Both pictures of a task: the PNG in base64, and its width on the page in pixels."""
    curves = gap_curves(card, task)
    return [_picture(draw_gap(task, curves)), _picture(draw_frontier(card, task, curves))]


def markdown(lines: Sequence[Line], columns: Sequence[str] = IN_MARKDOWN) -> str:
    """The lines of `table` as people read them in a README, a table for each task.

    `columns` are names of `METRICS`.

    Calibration is in italics; fewer than three seeds are marked, and said above everything.
    """
    names = [name for name in columns if _shown(lines, name)]
    head = [
        "algorithm",
        "completions",
        *(METRICS[n].label for n in names),
        "above envelope",
        "runs",
        "not finite",
    ]
    parts = [f"**{note}**\n" for note in cautions(lines)]
    for task in dict.fromkeys(line["task"] for line in lines):
        parts += [f"**{task_name(task)}**\n", _bar(head), _bar(["---"] * len(head))]
        parts += [_bar(_cells(line, names)) for line in lines if line["task"] == task]
        parts.append("")
    return "\n".join(parts).rstrip()


def _cells(line: Line, names: Sequence[str]) -> list[str]:
    name = algorithm(line["algo"])
    few = line["kind"] == "trained" and line["seeds"] < FEW_SEEDS
    runs = (
        f"{line['runs']} (**{line['seeds']} seed{'s' * (line['seeds'] > 1)}!**)"
        if few
        else str(line["runs"])
    )
    numbers = [" ".join(cell(line[n], line["runs"])).strip() for n in names]
    first = name if line["kind"] == "trained" else f"*{name}*"
    return [
        first,
        f"{line['budget']:,}",
        *numbers,
        str(line["above_envelope"]),
        runs,
        str(line["not_finite"]),
    ]


def _bar(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(lines: Sequence[Line], name: str) -> bool:
    """Whether any line has this number."""
    return any(line[name] is not None for line in lines)


def _picture(figure: Figure) -> dict[str, Any]:
    stream = io.BytesIO()
    figure.savefig(stream, dpi=style.DPI, format="png")
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return {"data": data, "width": round(100 * figure.get_size_inches()[0])}
