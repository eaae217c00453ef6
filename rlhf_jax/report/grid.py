"""Pictures of a gridworld run: values as colours and numbers, the policy as arrows, and curves."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from rlhf_jax.report import style
from rlhf_jax.report.grid_load import Frame, GridRun
from rlhf_jax.report.load import Columns
from rlhf_jax.report.style import COLORS

ARROWS = ((0.0, -1.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0))  # up, right, down, left, y downwards
MAPPED = "PuOr_r"  # diverging, and safe for colour-blind readers: orange is good, purple is bad
HIDDEN = 0.04  # probabilities below it have no arrow
NAMES = {
    "G": ("gold", "#f0c000"),
    "D": ("dragon", "#222222"),
    "#": ("", "#bdbdbd"),
    "c": ("coin", "#fff3b0"),  # who stands there has taken it: another layer of states
}


class Curve(NamedTuple):
    """One small plot beside the map."""

    column: str
    title: str
    zero: bool  # whether the axis begins at 0


CURVES = (
    Curve("exact/return", "return, exact", False),
    Curve("exact/value_error", "error of the values, exact", True),
    Curve("loss/value_avg", "value loss", True),
    Curve("loss/policy_avg", "surrogate loss", False),
    Curve("policy/clipfrac_avg", "share of samples clipped", True),
)


def scale_of(run: GridRun) -> TwoSlopeNorm:
    """One colour scale for all pictures of a run."""
    shown = np.concatenate(
        [run.best[: len(run.cells)], *(f.true[: len(run.cells)] for f in run.frames)]
    )
    reach = max(float(np.max(np.abs(shown))), 1e-3)
    return TwoSlopeNorm(0.0, -reach, reach)


def draw_map(
    axes: Axes, run: GridRun, values: np.ndarray, policy: np.ndarray, scale: Normalize, title: str
) -> None:
    """The map: each cell its value and its arrows. Only the layer with every coin in place."""
    height, width = len(run.rows), len(run.rows[0])
    colors = ScalarMappable(scale, MAPPED)
    for row, letters in enumerate(run.rows):
        for column, letter in enumerate(letters):
            draw_place(axes, row, column, letter, 7 if width <= 8 else 4.5)
    for state, (row, column) in enumerate(run.cells):
        if run.rows[row][column] == "c":
            continue
        shade = colors.to_rgba(values[state])
        axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=shade, edgecolor="w"))
        dark = "white" if np.dot(shade[:3], (0.3, 0.6, 0.1)) < 0.5 else "black"
        number_size = 8 if width <= 8 else 5.5
        axes.text(
            column,
            row + 0.37,
            f"{values[state]:.2f}",
            ha="center",
            va="center",
            color=dark,
            fontsize=number_size,
        )
        draw_arrows(axes, row - 0.15, column, policy[state], dark)
        if run.rows[row][column] == "S":
            axes.text(
                column - 0.45,
                row - 0.45,
                "start",
                ha="left",
                va="top",
                color=dark,
                fontsize=number_size - 1,
                fontweight="bold",
            )
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xticks=[], yticks=[])
    axes.set_aspect("equal")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")


def draw_place(axes: Axes, row: int, column: int, letter: str, size: float) -> None:
    """A wall, gold, a dragon or a coin."""
    if letter not in NAMES:
        return
    name, color = NAMES[letter]
    axes.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor=color, edgecolor="w"))
    ink = "white" if letter == "D" else "black"
    axes.text(
        column, row, name, ha="center", va="center", fontsize=size, color=ink, fontweight="bold"
    )


def draw_arrows(axes: Axes, row: float, column: float, probs: np.ndarray, color: str) -> None:
    """An arrow a move, as long as it is likely."""
    for chance, (right, down) in zip(probs, ARROWS):
        if chance < HIDDEN:
            continue
        length = 0.3 * float(chance)
        head = min(0.13, length)
        axes.arrow(
            column,
            row,
            right * length,
            down * length,
            width=0.018,
            head_width=head,
            head_length=head,
            length_includes_head=True,
            color=color,
            linewidth=0,
        )


def draw_curve(axes: Axes, curves: Columns, curve: Curve, now: int, run: GridRun) -> None:
    """One number through training, with the moment of the picture marked."""
    steps, values = curves["episode"], curves[curve.column]
    style.line(axes, steps, values, COLORS.blue)
    axes.axvline(now, color=COLORS.orange, linewidth=1.2)
    if curve.column == "exact/return":
        axes.axhline(run.start_value, color=COLORS.grey, linestyle="--", linewidth=1)
        axes.annotate(
            f"best {run.start_value:.2f}",
            (float(steps[-1]), run.start_value),
            fontsize=7,
            xytext=(0, 2),
            textcoords="offset points",
            ha="right",
            color=COLORS.grey,
        )
        axes.margins(y=0.15)
    if curve.zero:
        axes.set_ylim(bottom=0)
    axes.set_title(curve.title, loc="left", fontsize=8.5)
    axes.tick_params(labelsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k" if x else "0")


def draw_frame(run: GridRun, frame: Frame, curves: Columns) -> Figure:
    """Learned beside exact, and the curves below, at one moment."""
    fig = Figure(figsize=(12.0, 7.0), dpi=110, layout="constrained")
    FigureCanvasAgg(fig)
    grid = fig.add_gridspec(2, 12, height_ratios=(2.6, 1.0))
    scale = scale_of(run)
    pictures = (
        ("learnt: value network, policy", frame.learnt, frame.policy),
        ("exact values of this policy", frame.true, frame.policy),
        ("exact optimum", run.best, run.best_policy),
    )
    for i, (name, values, policy) in enumerate(pictures):
        axes = fig.add_subplot(grid[0, 4 * i : 4 * i + 4])
        draw_map(axes, run, values, policy, scale, name)
    below = grid[1, :].subgridspec(1, len(CURVES))
    for i, curve in enumerate(CURVES):
        draw_curve(fig.add_subplot(below[i]), curves, curve, frame.steps, run)
    fig.supxlabel("environment steps (the orange line is this picture)", fontsize=8)
    fig.suptitle(
        f"PPO on a gridworld after {frame.steps:,} steps — arrow length: probability of the move; "
        "number: value of the cell",
        fontsize=11,
        x=0.01,
        ha="left",
    )
    return fig


def save_frames(run: GridRun, curves: Columns, folder: Path) -> tuple[list[Path], Path]:
    """PNG pictures through training, and all of them as one GIF; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"frame_{i:02d}.png" for i in range(len(run.frames))]
    for path, frame in zip(paths, run.frames):
        style.save(draw_frame(run, frame, curves), path)
    return paths, save_gif(paths, folder / "training.gif")


def save_gif(pictures: list[Path], path: Path, milliseconds: int = 700) -> Path:
    """Pictures one after the other; the last one stays three times as long."""
    images = [Image.open(p).convert("RGB").resize((1200, 700)) for p in pictures]
    images = [image.quantize(128) for image in images]
    durations = [milliseconds] * (len(images) - 1) + [3 * milliseconds]
    images[0].save(
        path, save_all=True, append_images=images[1:], duration=durations, loop=0, optimize=True
    )
    return path
