"""The look of every picture: quiet axes, large enough words, colours all eyes can tell apart."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke


class Colors(NamedTuple):
    """Okabe and Ito's palette, safe for colour-blind readers."""

    blue: str = "#0072B2"
    orange: str = "#D55E00"
    grey: str = "#555555"


COLORS = Colors()
DPI = 150
PANEL = (4.6, 3.4)  # inches


def figure(rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    """A figure of equal panels, read row by row; no global pyplot state is touched."""
    size = (PANEL[0] * columns, PANEL[1] * rows)
    fig = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(fig)
    fig.get_layout_engine().set(w_pad=0.12, h_pad=0.12)  # pyright: ignore
    grid = fig.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e5e5", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9)
    return fig, list(grid.flat)


def save(fig: Figure, path: Path) -> Path:
    """Writes the figure as a picture and returns its path."""
    fig.savefig(path, dpi=DPI)
    return path


def title(axes: Axes, text: str, x: str, y: str) -> None:
    """Says what is seen and what the axes measure."""
    axes.set_title(text, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel(x, fontsize=10)
    axes.set_ylabel(y, fontsize=10)


def line(
    axes: Axes, x: np.ndarray, y: np.ndarray, color: str, label: str = "", noisy: bool = True
) -> None:
    """A curve; a few points are marked, many noisy ones are drawn pale under their running mean."""
    seen = ~np.isnan(y)
    x, y = x[seen], y[seen]
    if len(y) < 20:
        axes.plot(x, y, color=color, label=label, linewidth=1.8, marker="o", markersize=3)
    elif len(y) < 60 or not noisy:
        axes.plot(x, y, color=color, label=label, linewidth=1.8)
    else:
        axes.plot(x, y, color=color, linewidth=0.8, alpha=0.3)
        axes.plot(x, smooth(y, len(y) // 40), color=color, label=label, linewidth=1.8)


def smooth(y: np.ndarray, half_width: int) -> np.ndarray:
    """Centred running mean; the window narrows towards the ends, so they are not bent.

    >>> smooth(np.array([0.0, 3.0, 6.0, 0.0]), 1)
    array([0., 3., 3., 0.])
    """
    place = np.arange(len(y))
    reach = np.minimum(half_width, np.minimum(place, len(y) - 1 - place))
    total = np.concatenate([[0.0], np.cumsum(y)])
    return (total[place + reach + 1] - total[place - reach]) / (2 * reach + 1)


def cloud(
    axes: Axes, x: np.ndarray, y: np.ndarray, order: np.ndarray, color: str, label: str
) -> None:
    """Points from pale to full colour in the given order."""
    shades = LinearSegmentedColormap.from_list(label, ["#ffffff", color])
    low, high = float(order.min()), float(order.max())
    pale = low - 0.35 * max(high - low, 1.0)  # the first points must still be seen
    axes.scatter(x, y, c=order, cmap=shades, vmin=pale, vmax=high, s=16, linewidths=0)
    axes.scatter([], [], color=color, s=16, linewidths=0, label=label)


def level(axes: Axes, height: float, label: str) -> None:
    """A dashed line across, named with its value in the legend."""
    name = f"{label} ({height:.3g})"
    axes.axhline(height, color=COLORS.grey, linestyle="--", linewidth=1.2, label=name)


def name_level(axes: Axes, height: float, label: str) -> None:
    """Writes beside a level what it is, where two scales leave no room for a legend."""
    axes.margins(y=0.1)
    text = axes.annotate(
        f"{label} ({height:.3g})",
        xy=(0.01, height),
        xycoords=axes.get_yaxis_transform(),
        xytext=(0, 3),
        textcoords="offset points",
        fontsize=9,
        color=COLORS.grey,
    )
    text.set_path_effects([withStroke(linewidth=3, foreground="white")])


def second_axis(axes: Axes, label: str, color: str) -> Axes:
    """A scale on the right for a second quantity; each scale has the colour of its curve."""
    right = axes.twinx()
    right.spines["top"].set_visible(False)
    right.set_ylabel(label, fontsize=10, color=color)
    right.tick_params(labelsize=9, colors=color)
    axes.yaxis.label.set_color(COLORS.blue)
    axes.tick_params(axis="y", colors=COLORS.blue)
    axes.grid(False)  # lines of one scale would be read on the other
    axes.set_zorder(right.get_zorder() + 1)  # so that words on the left scale stay readable
    axes.patch.set_visible(False)
    return right


def legend(axes: Axes, title: str = "") -> None:
    """Names the curves when there is more than one, or the box has something to say."""
    if title or len(axes.get_legend_handles_labels()[0]) > 1:
        box = axes.legend(fontsize=9, title=title, title_fontsize=9)
        box.get_frame().set(edgecolor="none", alpha=0.8)
