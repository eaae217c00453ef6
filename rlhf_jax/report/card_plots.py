"""The two pictures of a task on a report card: how fast the gap closes, and what reward costs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_jax.report import style
from rlhf_jax.report.card_numbers import (
    Card,
    Row,
    finite,
    gap_at,
    grouped,
    number,
    task_name,
)
from rlhf_jax.report.names import algorithm
from rlhf_jax.report.stats import Estimate
from rlhf_jax.report.style import COLORS

A_PANEL = 5  # algorithms; more are told apart by nobody
# The rest of Okabe and Ito's palette, each with a shape of its own.
LOOKS = tuple(zip((*COLORS[:2], "#009E73", "#CC79A7", "#E69F00"), "os^Dv"))
KNOWN = "*so^DvPXdhp"  # open shapes of calibration
PALE = "#d5d5d5"
LEAST = 1e-6  # of a gap in a picture; below it rounding is drawn


class Curve(NamedTuple):
    """An algorithm's gap at every budget."""

    algo: str
    kind: str
    budgets: Sequence[int]
    estimates: Sequence[Estimate]


def gap_curves(card: Card, task: str) -> list[Curve]:
    """The gap of each algorithm against the budget, trained ones first and by their last gap."""
    curves = []
    for (name, kind, algo), runs in grouped(card).items():
        if name == task:
            budgets = runs[0]["budgets"]
            points = [gap_at(runs, place) for place in range(len(budgets))]
            curves.append(Curve(algo, kind, budgets, points))
    return sorted(curves, key=lambda c: (c.kind != "trained", c.estimates[-1].value))


def draw_gap(task: str, curves: Sequence[Curve]) -> Figure:
    """The gap left against samples, with intervals; a panel for each five algorithms."""
    trained, levels = split(curves)
    low, high = _range(trained, levels)

    def draw(axes: Axes, own: Sequence[Curve]) -> None:
        for curve in trained:
            if curve not in own:
                axes.plot(curve.budgets, _values(curve), color=PALE, linewidth=1, zorder=1)
        for curve, (color, marker) in zip(own, LOOKS):
            _band(axes, curve, color, marker, high)
        axes.set(yscale="log", ylim=(low, high))
        _budget_axis(axes, max((c.budgets for c in curves), key=len))
        _name_levels(axes, levels, low)
        if own:
            axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1))

    labels = ("completions (drawn, or read in pairs)", "gap left (share of the start's)")
    title = f"{task_name(task)}: how much is left to learn{_warning(trained)}"
    figure = _panels(title, labels, trained, draw)
    width, height = figure.get_size_inches()
    rows = round(height / style.PANEL[1])
    figure.set_size_inches(width, height + 0.17 * min(len(trained), A_PANEL) * rows)  # the names
    return figure


def draw_frontier(card: Card, task: str, curves: Sequence[Curve]) -> Figure:
    """Reward against KL of every run on one instance, below the best there can be."""
    instance = shown_instance(card, task)
    runs = [r for r in card["rows"] if r["task"] == task and r["instance"] == instance]
    envelope = card["envelopes"].get(f"{task}/{instance}")
    trained, levels = split(curves)
    limits = [_span(runs, name) for name in ("kl", "reward")]

    def draw(axes: Axes, own: Sequence[Curve]) -> None:
        axes.set(xlim=limits[0], ylim=limits[1])
        for curve, (color, marker) in zip(own, LOOKS):
            _points(axes, [r for r in runs if _is(r, curve)], color, marker)
            axes.scatter([], [], color=color, marker=marker, s=26, label=algorithm(curve.algo))
        for curve, marker in zip(levels, KNOWN):
            _mark(axes, next((r for r in runs if _is(r, curve)), None), marker)
        if envelope:
            _envelope(axes, envelope)
        axes.legend(fontsize=8, frameon=False, loc="lower right")

    labels = ("KL from the reference (nats/text)", "mean reward (points)")
    title = f"{task_name(task)}, instance {instance}: what each nat of KL buys"
    return _panels(title, labels, trained, draw)


def shown_instance(card: Card, task: str) -> Any:
    """The instance whose envelope is drawn: the first that has one, else the first."""
    instances = dict.fromkeys(r["instance"] for r in card["rows"] if r["task"] == task)
    with_envelope = (i for i in instances if f"{task}/{i}" in card["envelopes"])
    return next(with_envelope, next(iter(instances)))


def split(curves: Sequence[Curve]) -> tuple[list[Curve], list[Curve]]:
    """Trained algorithms, and calibration."""
    trained = [c for c in curves if c.kind == "trained"]
    return trained, [c for c in curves if c.kind != "trained"]


def _panels(
    title: str,
    labels: tuple[str, str],
    trained: Sequence[Curve],
    draw: Callable[[Axes, Sequence[Curve]], None],
) -> Figure:
    """Panels of a few algorithms each, two a row."""
    parts = [trained[i : i + A_PANEL] for i in range(0, len(trained), A_PANEL)] or [[]]
    columns = min(2, len(parts))
    figure, grid = style.figure(-(-len(parts) // columns), columns)
    for axes, own in zip(grid, parts):
        axes.set_xlabel(labels[0], fontsize=10)
        axes.set_ylabel(labels[1], fontsize=10)
        draw(axes, own)
    for axes in grid[len(parts) :]:
        axes.set_visible(False)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def _band(axes: Axes, curve: Curve, color: str, marker: str, top: float) -> None:
    """A line with its interval; it ends where too many runs have diverged."""
    values = _values(curve)
    axes.plot(
        curve.budgets, values, color=color, marker=marker, markersize=4, linewidth=1.6,
        label=_named(curve), zorder=3,
    )  # fmt: skip
    ends = np.array([[e.low, e.high] for e in curve.estimates])
    seen = np.isfinite(values) & ~np.isnan(ends).any(axis=1)
    low, high = np.clip(ends, LEAST / 10, 10 * top).T
    budgets, shade = curve.budgets, {"color": color, "alpha": 0.2, "linewidth": 0, "zorder": 2}
    axes.fill_between(budgets, low, high, where=seen, **shade)


def _budget_axis(axes: Axes, budgets: Sequence[int]) -> None:
    axes.set_xscale("log")
    names = [f"{b // 1024}k" if b % 1024 == 0 else str(b) for b in budgets]
    axes.set_xticks(budgets, names, fontsize=8)
    axes.set_xticks([], minor=True)
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:g}")


def _range(trained: Sequence[Curve], levels: Sequence[Curve]) -> tuple[float, float]:
    """Of the vertical axis: all trained curves and their intervals, and the levels near them."""
    ends = [x for c in trained for e in c.estimates for x in (e.value, e.low, e.high)]
    known = [x for x in ends if math.isfinite(x)] + [1.0]
    low = max(min(known), LEAST)
    near = [c.estimates[-1].value for c in levels if c.estimates[-1].value > low / 10]
    return max(min([low, *near]) / 1.5, LEAST), 1.5 * max([1.0, *known])


def _name_levels(axes: Axes, levels: Sequence[Curve], low: float) -> None:
    """Dashed lines with their names beside the axes; what lies below is named at the bottom."""
    heights = sorted((max(c.estimates[-1].value, low), c.algo) for c in levels)
    bottom, top = np.log(axes.get_ylim())
    place = -1.0
    for height, algo in heights:
        below = height <= low
        if not below:
            axes.axhline(height, color=COLORS.grey, linestyle="--", linewidth=1, zorder=1)
        place = max((math.log(height) - bottom) / (top - bottom), place + 0.07)
        axes.text(
            1.01,
            place,
            algorithm(algo) + (" ↓" if below else ""),
            transform=axes.transAxes,
            fontsize=8,
            color=COLORS.grey,
            va="center",
        )


def _points(axes: Axes, runs: Sequence[Row], color: str, marker: str) -> None:
    """Every evaluated point of the runs, pale, and the last of each in full colour."""
    for run in runs:
        kl, reward = _curve(run["kl"]), _curve(run["reward"])
        axes.scatter(
            kl[:-1], reward[:-1], color=color, marker=marker, s=12, alpha=0.3, linewidths=0
        )
        if finite(run):
            axes.scatter(
                kl[-1:], reward[-1:], color=color, marker=marker, s=26,
                edgecolors="white", linewidths=0.5, zorder=3,
            )  # fmt: skip


def _mark(axes: Axes, run: Row | None, marker: str) -> None:
    """Where a known policy is: an open shape, so that what is there stays visible."""
    if run is not None and finite(run):
        axes.scatter(
            number(run["kl"][-1]), number(run["reward"][-1]), marker=marker, s=110,
            facecolors="none", edgecolors="black", label=algorithm(run["algo"]), zorder=4,
        )  # fmt: skip


def _envelope(axes: Axes, envelope: Mapping[str, Sequence[float]]) -> None:
    """The best reward at each KL; above it there is nothing."""
    kl, reward = np.array(envelope["kl"], float), np.array(envelope["reward"], float)
    top = max(axes.get_ylim()[1], float(reward.max()))
    axes.plot(kl, reward, color="black", linewidth=1, zorder=0.5)
    axes.fill_between(kl, reward, top, color="#eeeeee", linewidth=0, zorder=0)
    axes.axvspan(axes.get_xlim()[0], kl.min(), color="#eeeeee", linewidth=0, zorder=0)
    axes.text(
        0.02, 0.97, "no policy can be here", transform=axes.transAxes, fontsize=8,
        color=COLORS.grey, va="top",
    )  # fmt: skip


def _span(runs: Sequence[Row], name: str) -> tuple[float, float]:
    """Limits that show every finite point, with a margin."""
    points = np.concatenate([_curve(run[name]) for run in runs])
    points = points[np.isfinite(points)]
    low, high = (points.min(), points.max()) if len(points) else (0.0, 1.0)
    margin = 0.08 * max(high - low, 1e-3)
    return float(low - margin), float(high + margin)


def _warning(curves: Sequence[Curve]) -> str:
    """Said in the title, as a picture travels without its page."""
    single = any(math.isnan(c.estimates[-1].low) for c in curves)
    return "\nONE SEED: NO INTERVALS" if single else ""


def _named(curve: Curve) -> str:
    """An algorithm, and how many of its runs diverged."""
    last = curve.estimates[-1]
    lost = f" ({last.not_finite} of {last.runs} diverged)" if last.not_finite else ""
    return algorithm(curve.algo) + lost


def _is(run: Row, curve: Curve) -> bool:
    return run["algo"] == curve.algo and run["kind"] == curve.kind


def _values(curve: Curve) -> np.ndarray:
    """What can be drawn on a logarithmic axis: a gap of rounding is drawn at the least one."""
    values = np.array([e.value for e in curve.estimates])
    return np.where(np.isfinite(values), np.maximum(values, LEAST), np.nan)


def _curve(values: Sequence[Any]) -> np.ndarray:
    return np.array([number(x) for x in values])
