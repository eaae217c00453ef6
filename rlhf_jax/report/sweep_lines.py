"""Pictures of a sweep's curves with their bands: through training, and reward against KL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlhf_jax.report import style
from rlhf_jax.report.names import describe, labelled
from rlhf_jax.report.style import COLORS
from rlhf_jax.report.sweep_aggregate import bands
from rlhf_jax.report.sweep_curves import Curves, Frontier, at_kl
from rlhf_jax.report.sweep_factors import Factor
from rlhf_jax.report.sweep_plots import legend, looks, titled
from rlhf_jax.report.sweep_question import at
from rlhf_jax.report.sweep_study import Study

GRID = 40  # points of a frontier


class Line(NamedTuple):
    """An arm as it is drawn."""

    values: Mapping[Factor, object]
    color: str
    marker: str
    label: str


def lines_of(factor: Factor | None) -> list[Line]:
    """A line for each value of a factor; for None one of all runs."""
    if factor is None:
        return [Line({}, COLORS.blue, "o", "")]
    return [
        Line({factor: value}, *look, factor.label(value))
        for value, look in zip(factor.values, looks(factor))
    ]


def draw_curves(study: Study, factor: Factor | None, metric: str, curves: Curves) -> Figure:
    """A metric through training, an arm a colour, with bands."""
    figure, (axes,) = style.figure(1, 1)
    full = study.tensor(curves.y)
    for line in lines_of(factor):
        band = bands(at(study, full, line.values), study.blocks)
        _ribbon(axes, curves.x, band, line.color, line.label)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(_thousands)
    titled(study, axes, describe(metric).label, curves.counted, labelled(metric))
    if factor is not None:
        legend(axes, factor.name)
    return figure


def draw_frontier(
    study: Study, factor: Factor | None, found: Frontier, where: Mapping[Factor, object]
) -> Figure:
    """Reward against KL: a point where each run ends, and each arm's way there with its band."""
    figure, (axes,) = style.figure(1, 1)
    top = float(np.nanmax(found.reached()[study.mask(where)], initial=0.0))
    grid = np.linspace(0, top, GRID)
    for line in lines_of(factor):
        values = {**where, **line.values}
        band = bands(at_kl(study, found, values, grid), study.blocks)
        _ribbon(axes, grid, band, line.color, "")
        axes.scatter(
            *found.ends[study.mask(values)].T, color=line.color, marker=line.marker, s=20,
            edgecolors="white", linewidths=0.4, zorder=3, label=line.label,
        )  # fmt: skip
    rest = "".join(f", {f.name} {f.label(v)}" for f, v in where.items())
    name = f"By {factor.name}{rest}" if factor else "All runs"
    titled(study, axes, name, labelled(found.kl_metric), labelled(found.metric))
    if factor is not None:
        legend(axes, factor.name)
    return figure


def _ribbon(axes: Axes, x: np.ndarray, band: np.ndarray, color: str, label: str) -> None:
    """A line as far as it has a band; dashed if it has none at all."""
    middle, low, high = np.where(np.isfinite(band), band, np.nan)
    seen = ~np.isnan(low) & ~np.isnan(high)
    look = "-" if seen.any() else "--"
    middle = np.where(seen, middle, np.nan) if seen.any() else middle
    axes.plot(x, middle, look, color=color, linewidth=1.6, label=label or None)
    axes.fill_between(x, low, high, where=seen, color=color, alpha=0.2, linewidth=0)


def _thousands(value: float, _: object) -> str:
    return f"{value / 1000:g}k" if abs(value) >= 1000 else f"{value:g}"
