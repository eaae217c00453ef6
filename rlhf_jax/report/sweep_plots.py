"""Pictures of a sweep's settings, one panel each, so that a page lays them out for any width."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter

from rlhf_jax.report import style
from rlhf_jax.report.card_numbers import FEW_SEEDS
from rlhf_jax.report.card_plots import LOOKS
from rlhf_jax.report.stats import Estimate
from rlhf_jax.report.style import COLORS
from rlhf_jax.report.sweep_aggregate import aggregate
from rlhf_jax.report.sweep_compare import Difference
from rlhf_jax.report.sweep_factors import Factor
from rlhf_jax.report.sweep_question import Question, at
from rlhf_jax.report.sweep_study import Study

MORE = (("#56B4E9", "P"), ("#000000", "X"), ("#8c6d1f", "p"), ("#7b3294", "*"), ("#777777", "h"))
NARROW = 48  # letters of a legend in one line
FEW_WIDE = 8.0  # a scale whose values span more is drawn logarithmic


def looks(factor: Factor) -> list[tuple[str, str]]:
    """A colour and a marker for each value; numbers go from dark to light."""
    markers = [m for _, m in (*LOOKS, *MORE)]
    count = len(factor.values)
    if factor.numeric and count > 2:
        shades = mpl.colormaps["viridis"](np.linspace(0, 0.85, count))
        return list(zip(map(to_hex, shades), itertools.cycle(markers)))
    return [look for look, _ in zip(itertools.cycle((*LOOKS, *MORE)), factor.values)]


def draw_effects(question: Question, effects: Mapping[Factor, Sequence[Difference]]) -> Figure:
    """How far each value of each factor lies from the mean of its factor."""
    study = question.study
    rows = [(f, f.label(v), d) for f, ds in effects.items() for v, d in zip(f.values, ds)]
    figure, (axes,) = style.figure(1, 1)
    figure.set_size_inches(style.PANEL[0], 1.1 + 0.27 * (len(rows) + len(effects)))
    heights = _heights([f for f, *_ in rows])
    colors = dict(zip(effects, itertools.cycle(c for c, _ in (*LOOKS, *MORE))))
    for height, (factor, _, found) in zip(heights, rows):
        _bar(axes, found.estimate, height, colors[factor], across=True)
    axes.axvline(0, color=COLORS.grey, linewidth=1, linestyle="--")
    axes.set_yticks(heights, [f"{f.name} {label}" for f, label, _ in rows], fontsize=9)
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.set_ylim(heights[-1] + 0.6, -0.6)
    unit = f" ({question.unit})" if question.unit else ""
    found = [d.estimate for _, _, d in rows]
    titled(study, axes, "Main effects", f"from the mean{unit}", "", found)
    return figure


def draw_interaction(question: Question, across: Factor, colored: Factor) -> Figure:
    """The outcome at each combination of two factors; parallel lines: they do not interact."""
    figure, (axes,) = style.figure(1, 1)
    study, x, drawn = question.study, question.scores(), list[Estimate | None]()
    places = np.arange(len(across.values), dtype=float)
    for i, (value, (color, marker)) in enumerate(zip(colored.values, looks(colored))):
        parts = [at(study, x, {across: v, colored: value}) for v in across.values]
        found = [_signed(question, aggregate(part, study.blocks)) for part in parts]
        drawn += found
        shift = 0.07 * (i - (len(colored.values) - 1) / 2)
        _series(axes, places + shift, found, color, marker, colored.label(value))
    axes.set_xticks(places, [across.label(v) for v in across.values], fontsize=9)
    axes.set_xlim(-0.4, len(places) - 0.6)
    name = f"{across.name} \N{MULTIPLICATION SIGN} {colored.name}"
    titled(study, axes, name, across.name, _axis(question), drawn)
    legend(axes, colored.name)
    return figure


def draw_sensitivity(question: Question, factor: Factor) -> Figure:
    """The outcome along a knob."""
    figure, (axes,) = style.figure(1, 1)
    study, x = question.study, question.scores()
    parts = [at(study, x, {factor: v}) for v in factor.values]
    found = [_signed(question, aggregate(part, study.blocks)) for part in parts]
    _series(axes, _scale(axes, factor), found, COLORS.blue, "o", "")
    titled(study, axes, f"Along {factor.name}", factor.name, _axis(question), found)
    return figure


def draw_search(question: Question, factor: Factor) -> Figure:
    """Every trial of a search against one of its knobs."""
    figure, (axes,) = style.figure(1, 1)
    study = question.study
    x = np.array([factor.values.index(v) for v in study.runs[factor.key]], dtype=float)
    if factor.numeric:
        x = np.array(factor.values, dtype=float)[x.astype(int)]
    else:
        axes.set_xticks(range(len(factor.values)), [factor.label(v) for v in factor.values])
    y = study.scores(question.column)
    axes.scatter(x, y, s=22, color=COLORS.blue, alpha=0.8, linewidths=0)
    for place in x[np.isnan(y)]:
        axes.axvline(place, ymax=0.04, color=COLORS.orange)
    if (x > 0).all() and x.max() > 4 * FEW_WIDE * x.min():
        axes.set_xscale("log")
        axes.xaxis.set_minor_formatter(NullFormatter())
    titled(study, axes, f"Along {factor.name}", factor.name, _axis(question))
    return figure


def _series(
    axes: Axes,
    x: np.ndarray,
    found: Sequence[Estimate | None],
    color: str,
    marker: str,
    label: str,
) -> None:
    """Aggregates joined by a line, each with its interval."""
    y = [math.nan if e is None or not math.isfinite(e.value) else e.value for e in found]
    axes.plot(x, y, color=color, marker=marker, markersize=5, linewidth=1.4, label=label)
    for place, estimate in zip(x, found):
        if estimate is not None:
            _bar(axes, estimate, place, color)


def _bar(axes: Axes, found: Estimate, place: float, color: str, across: bool = False) -> None:
    """An interval, and its middle if it is drawn across; nothing where there is none."""
    if across and math.isfinite(found.value):
        axes.plot(found.value, place, "o", color=color, markersize=5)
    if math.isfinite(found.low) and math.isfinite(found.high):
        draw = axes.hlines if across else axes.vlines
        draw(place, found.low, found.high, color=color, linewidth=1.6)


def _scale(axes: Axes, factor: Factor) -> np.ndarray:
    """Where the values of a knob stand: logarithmic or evenly if they span much."""
    x = np.array(factor.values, float)
    steps = np.diff(x)
    if (x > 0).all() and x[-1] >= FEW_WIDE * x[0]:
        axes.set_xscale("log")
        axes.minorticks_off()
    elif len(steps) > 1 and steps.max() > 0.6 * FEW_WIDE * steps.min():
        x = np.arange(len(x), dtype=float)
    axes.set_xticks(x, [factor.label(v) for v in factor.values], fontsize=9)
    return x


def _signed(question: Question, found: Estimate | None) -> Estimate | None:
    """Back in the unit of the outcome, where less is better."""
    if found is None or question.sign > 0:
        return found
    value, low, high, *rest = found
    return Estimate(-value, -high, -low, *rest)


def _heights(factors: Sequence[Factor]) -> list[float]:
    """A line each, with a gap between factors."""
    places, height = [], -1.0
    for i, factor in enumerate(factors):
        height += 1.0 if i == 0 or factors[i - 1] == factor else 1.8
        places.append(height)
    return places


def titled(
    study: Study, axes: Axes, text: str, x: str, y: str, drawn: Sequence[Estimate | None] = ()
) -> None:
    """Says where intervals are missing too, as a picture travels without its page.

    Args:
      drawn: what is shown with an interval, if it has one that is finite.
    """
    if study.searched:
        text += "\none run a point: no intervals"
    elif study.seeds < FEW_SEEDS:
        text += "\nONE SEED" if study.seeds == 1 else f"\n{study.seeds} SEEDS"
        text += ": NO INTERVALS"
    elif any(e is not None and not np.isfinite(e[:3]).all() for e in drawn):
        text += "\nno bar: few seeds, or diverged"
    style.title(axes, text, x, y)


def _axis(question: Question) -> str:
    return f"{question.label} ({question.unit})" if question.unit else question.label


def legend(axes: Axes, title: str) -> None:
    """Names the colours below the axes, where nothing is hidden."""
    handles, labels = axes.get_legend_handles_labels()
    figure = axes.get_figure(root=True)
    if figure is None or not handles:
        return
    columns = 1 if sum(map(len, labels)) + 3 * len(labels) > NARROW else len(labels)
    columns = min(columns, 4)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 0.16 * (1 + -(-len(labels) // columns)))
    figure.get_layout_engine().set(h_pad=0.06)  # pyright: ignore
    figure.legend(
        handles, labels, loc="outside lower left", ncols=columns, fontsize=8, title=title,
        title_fontsize=8, frameon=False, alignment="left", borderaxespad=0.2,
    )  # fmt: skip
