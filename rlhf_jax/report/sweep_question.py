"""A sweep and the number it is asked about, and how answers are written."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from rlhf_jax.report.card_numbers import cell
from rlhf_jax.report.names import describe
from rlhf_jax.report.stats import Estimate
from rlhf_jax.report.sweep_factors import Factor
from rlhf_jax.report.sweep_outcome import direction, lower_is_better, objective, reason
from rlhf_jax.report.sweep_study import Study


class Question(NamedTuple):
    """A study and the number it is asked about."""

    study: Study
    column: str

    @property
    def sign(self) -> int:
        """-1 where less is better: by what the search was told, else by what the number is."""
        looked = direction(self.study.jobs) if self.own else None
        return -1 if (looked == "minimize" if looked else lower_is_better(self.column)) else 1

    @property
    def own(self) -> bool:
        """Whether it is the sweep's own objective."""
        return self.column == objective(self.study.jobs, self.study.runs)

    @property
    def reason(self) -> str:
        """Why this number is reported."""
        return reason(self.study.jobs, self.study.runs, self.column)

    @property
    def label(self) -> str:
        """The outcome in words."""
        return describe(self.column.removeprefix("after/")).label

    @property
    def unit(self) -> str:
        """The outcome's unit."""
        return describe(self.column.removeprefix("after/")).unit

    def scores(self) -> np.ndarray:
        """`[seeds, values...]`, more is better, minus infinity for a run that diverged."""
        runs = self.study.scores(self.column, lost=-math.inf * self.sign)
        return self.sign * self.study.tensor(runs)

    def worst(self) -> float:
        """The worst finite score: what one that diverged counts as in a test."""
        x = self.scores()
        return float(x[np.isfinite(x)].min(initial=math.inf)) if np.isfinite(x).any() else 0.0


def at(study: Study, x: np.ndarray, values: Mapping[Factor, object]) -> np.ndarray:
    """The part `[seeds, strata, ...]` of a tensor where factors have these values."""
    index = tuple(f.values.index(values[f]) if f in values else slice(None) for f in study.factors)
    rest = x.shape[1 + len(study.factors) :]
    return x[(slice(None), *index)].reshape(len(x), -1, *rest)


def told(found: Estimate | None, runs: int) -> tuple[str, str]:
    """As `cell`, without a minus before 0.

    >>> told(Estimate(0.04, -0.0004, 0.08, 8), 8)
    ('0.04', '[0.00, 0.08]')
    """
    number, interval = (re.sub(r"-(0\.?0*)(?![\d.])", r"\1", text) for text in cell(found, runs))
    return number, interval


def written(found: Estimate, runs: int | None = None) -> str:
    """A number with its interval.

    >>> written(Estimate(0.3124, 0.121, 0.5, 8))
    '0.31 [0.12, 0.50]'
    """
    return " ".join(told(found, found.runs if runs is None else runs)).strip()


def p_value(p: float) -> str:
    """As it is printed.

    >>> [p_value(p) for p in (0.0312, 0.00002, 1.0, float("nan"))]
    ['0.031', '< 0.001', '1', '-']
    """
    if math.isnan(p):
        return "-"
    return "< 0.001" if p < 0.001 else f"{p:.2g}"
