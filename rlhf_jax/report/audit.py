"""The heat map of an audit: the angle between the gradients of every two losses."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from rlhf_jax.report import style
from rlhf_jax.report.style import COLORS

CELL = 0.36  # inches
SCALE = LinearSegmentedColormap.from_list("cosine", [COLORS.blue, "#ffffff", COLORS.orange])
SCALE = SCALE.with_extremes(bad="#dddddd")
KEY = """\
loss full: the exact KL gradient at each token of these texts
text KL: the same, and what each token does to the KL of later ones
x ratio: the estimate times the probability ratio (kl_importance)
reward: the KL's share of the advantages, whitened with them
grey: no gradient"""


def plot_audit(run_dir: str | os.PathLike[str]) -> Path:
    """Draws `audit.json` of a directory into `plots/audit.png` and returns its path.

    Raises:
      FileNotFoundError: there is no `audit.json`.
    """
    folder = Path(run_dir)
    record = json.loads((folder / "audit.json").read_text(encoding="utf-8"))
    (folder / "plots").mkdir(exist_ok=True)
    return style.save(draw_audit(record), folder / "plots" / "audit.png")


def draw_audit(record: Mapping[str, Any]) -> Figure:
    """Both matrices side by side: whole gradients, and what the KL adds to them."""
    panels = [
        ("Gradients of whole losses", record["arms"], record["cosines"]),
        ("Gradients of the KL terms alone", record["kl_terms"], record["kl_cosines"]),
    ]
    sizes = [len(rows) for _, rows, _ in panels]
    width, height = CELL * (sum(sizes) + 16), CELL * (max(sizes) + 7)
    figure = Figure(figsize=(width, height), dpi=style.DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(1, 2, width_ratios=sizes)
    for axes, (title, rows, values) in zip(grid, panels):
        draw_cosines(axes, title, rows, values)
    figure.suptitle(caption(record["place"]), x=0.01, ha="left", fontsize=10)
    add_key(grid[1])
    return figure


def draw_cosines(
    axes: Axes, title: str, rows: Sequence[Mapping[str, Any]], values: Sequence[Sequence[Any]]
) -> None:
    """One matrix with its numbers; lines part the groups, grey has no direction."""
    matrix, names = np.array(values, dtype=float), [row["name"] for row in rows]
    axes.imshow(np.ma.masked_invalid(matrix), cmap=SCALE, vmin=-1, vmax=1)
    axes.set_anchor("NW")
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=8)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(matrix):
        color = "white" if abs(value) > 0.75 else "black"
        axes.text(j, i, short(value), ha="center", va="center", fontsize=7, color=color)
    draw_groups(axes, [row["group"] for row in rows])


def draw_groups(axes: Axes, groups: Sequence[str]) -> None:
    """Lines between the groups, and their names left of the rows."""
    size = len(groups)
    edges = [i for i in range(size + 1) if i in (0, size) or groups[i] != groups[i - 1]]
    for edge in edges[1:-1]:
        axes.axhline(edge - 0.5, color="black", linewidth=1.2)
        axes.axvline(edge - 0.5, color="black", linewidth=1.2)
    for low, high in itertools.pairwise(edges):
        if high - low > 1:
            axes.annotate(
                groups[low].replace(", ", "\n"),
                xy=(0, (low + high - 1) / 2),
                xycoords=axes.get_yaxis_transform(),
                xytext=(-94, 0),
                textcoords="offset points",
                rotation=90,
                ha="center",
                va="center",
                fontsize=9,
                color=COLORS.grey,
            )


def add_key(axes: Axes) -> None:
    """The colours in words, and the two KLs the others are compared with, below a matrix."""
    bar = axes.inset_axes((0.0, -0.42, 0.6, 0.03))
    bar.imshow(np.linspace(-1, 1, 200)[None], cmap=SCALE, aspect="auto", extent=(-1, 1, 0, 1))
    bar.set_xticks([-1, 0, 1], ["-1: opposite", "0: unrelated", "1: same direction"], fontsize=9)
    bar.set_yticks([])
    bar.spines[:].set_visible(False)
    bar.set_title("Cosine between two gradients", loc="left", fontsize=10)
    axes.text(0.0, -0.52, KEY, transform=axes.transAxes, fontsize=9, va="top", linespacing=1.6)


def short(cosine: float) -> str:
    """Two digits, three close to 1 so that only what is equal is written 1.

    >>> [short(x) for x in (1.0, 0.9971, 0.42, -0.003, -0.5, float("nan"))]
    ['1', '.997', '.42', '0', '-.50', '-']
    """
    if np.isnan(cosine):
        return "-"
    digits = 3 if 0.995 <= abs(cosine) < 0.9995 else 2
    text = f"{cosine:.{digits}f}".replace("0.", ".", 1)
    return {".00": "0", "-.00": "0", "1.00": "1", "-1.00": "-1"}.get(text, text)


def caption(place: Mapping[str, Any]) -> str:
    """Where the audit looked, in a line."""
    return (
        f"{place['policy']} on {place['task']} after {place['updates']} updates: "
        f"{place['completions']} completions, KL from the reference {place['kl']:.2g} "
        f"nats/text, KL coefficient {place['kl_coef']:.3g}; gradients after {place['steps']} of "
        f"{place['steps_per_update']} optimizer steps (largest ratio {place['ratio_max']:.3g})"
    )


def audit_csv(record: Mapping[str, Any]) -> str:
    """The arms as a table, the cosines with every arm in the last columns."""
    numbers = ("loss", "grad_norm", "clip_fraction", "halves")
    names = [arm["name"] for arm in record["arms"]]
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["name", "group", *numbers, *(f"cosine/{name}" for name in names)])
    for arm, cosines in zip(record["arms"], record["cosines"]):
        table.writerow([arm["name"], arm["group"], *(arm[n] for n in numbers), *cosines])
    return text.getvalue()
