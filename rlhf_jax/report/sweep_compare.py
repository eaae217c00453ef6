"""Arms of a sweep against each other, on scores `[seeds, strata]` of which some may be missing.

A stratum is a combination of the other factors; all runs of a seed are drawn together, because they
share what the seed does. nan is a run that is missing, minus infinity one that diverged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import ttest_1samp

from rlhf_jax.report.card_numbers import FEW_SEEDS
from rlhf_jax.report.decisions import holm
from rlhf_jax.report.stats import (
    LEVEL,
    REPS,
    Estimate,
    iqm_present,
    stratified_indices,
    wins,
    with_interval,
)

ALPHA = 1 - LEVEL
MOSTLY = 0.75  # of the pairs of runs: the protocol's second condition


class Difference(NamedTuple):
    """How much more one arm scores than another, or a contrast of several."""

    estimate: Estimate
    probability: float  # that a run of the first scores more; nan for a contrast
    p: float  # two-sided, of no difference; nan where it cannot be tested
    adjusted: float  # Holm's, over all comparisons made together
    seeds: int

    @property
    def sure(self) -> bool:
        """The interval excludes 0, and so does the test after correction."""
        value, low, high, *_ = self.estimate
        return bool(low * high > 0 and low * value > 0 and self.adjusted <= ALPHA)

    @property
    def clear(self) -> bool:
        """The protocol's "a > b", or b > a: sure, and so for three runs of four."""
        return self.sure and max(self.probability, 1 - self.probability) >= MOSTLY


def aggregate(x: np.ndarray, blocks: np.ndarray, reps: int = REPS) -> Estimate | None:
    """Interquartile mean of all runs with its stratified bootstrap interval.

    Args:
      x: scores `[seeds, strata]`.
      blocks: the instance of each seed, `[seeds]`; seeds are drawn within their instance.
      reps: resamples.

    Returns:
      None if there is no run; an interval of nan with fewer than three seeds in an instance.

    Source: arXiv:2108.13264, section 4.1, with one draw of seeds for all strata.

    >>> print(*aggregate(np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]]), np.zeros(3)))
    4.0 3.0 5.0 6 0
    """
    x, blocks = _with_runs(x, blocks)
    runs = x[~np.isnan(x)]
    if not len(runs):
        return None
    draws = np.empty(0)
    if seeds_of(blocks) >= FEW_SEEDS:
        draws = iqm_present(x[drawn(blocks, reps)].reshape(reps, -1))
    return with_interval(runs, iqm_present, draws, LEVEL, int(np.isinf(runs).sum()))


def bands(x: np.ndarray, blocks: np.ndarray, reps: int = 500) -> np.ndarray:
    """Interquartile mean and both ends of its interval at each point of curves.

    Args:
      x: `[seeds, strata, points]`.

    Returns:
      `[3, points]`; nan where there are no runs, and for the ends with fewer than three seeds.
    """
    keep = ~np.isnan(x).all(axis=(1, 2))
    x, blocks = x[keep], blocks[keep]
    points = x.shape[-1]
    if not len(x):
        return np.full((3, points), np.nan)
    middle = iqm_present(x.reshape(-1, points), axis=0)
    if seeds_of(blocks) < FEW_SEEDS:
        return np.stack([middle, middle * np.nan, middle * np.nan])
    index = drawn(blocks, reps)
    draws = [iqm_present(x[..., i][index].reshape(reps, -1)) for i in range(points)]
    return np.array([_band(m, d) for m, d in zip(middle, draws)]).T


def compare(a: np.ndarray, b: np.ndarray, blocks: np.ndarray, worst: float = 0.0) -> Difference:
    """Two arms run on the same seeds and the same other settings.

    The interquartile mean of all pairs a - b with its bootstrap interval, and a t-test on one
    number a seed, the interquartile mean of its pairs: an interval by bootstrap alone is too
    narrow for few seeds.

    Args:
      a, b: `[seeds, strata]`, higher is better; a pair counts if both are there.
      blocks: as in `aggregate`.
      worst: what a run that diverged counts as in the test.

    >>> a = np.array([[1.0], [2.0], [3.0], [5.0]])
    >>> found = compare(a + np.array([[0.1], [0.2], [0.2], [0.1]]), a, np.zeros(4))
    >>> round(found.estimate.value, 3), round(found.p, 3), round(found.probability, 3)
    (0.15, 0.014, 0.625)
    """
    missing = np.isnan(a) | np.isnan(b)
    a, b = np.where(missing, np.nan, a), np.where(missing, np.nan, b)
    with np.errstate(invalid="ignore"):
        pairs = np.where(a == b, 0.0, a - b)  # two that diverged are a tie
    tested = _finite(a, worst) - _finite(b, worst)
    return _difference(pairs, tested, blocks, _probability(a, b))


def contrast(x: np.ndarray, blocks: np.ndarray) -> Difference:
    """Whether sums of several arms, `[seeds, strata]`, differ from 0; all finite or nan."""
    return _difference(x, x, blocks, math.nan)


def corrected(found: Sequence[Difference]) -> list[Difference]:
    """The same with Holm's correction over all that could be tested."""
    tested = [i for i, d in enumerate(found) if not math.isnan(d.p)]
    adjusted = dict(zip(tested, holm([found[i].p for i in tested]).tolist()))
    return [d._replace(adjusted=adjusted.get(i, math.nan)) for i, d in enumerate(found)]


def seeds_of(blocks: np.ndarray) -> int:
    """Seeds in the instance that has the fewest.

    >>> seeds_of(np.array(["a", "a", "b"])), seeds_of(np.array([]))
    (1, 0)
    """
    return int(min(np.unique(blocks, return_counts=True)[1], default=0))


def drawn(blocks: np.ndarray, reps: int, seed: int = 0) -> np.ndarray:
    """Which seeds each resample takes, `[reps, seeds]`: of every instance as many as it has."""
    members = [np.flatnonzero(blocks == block) for block in dict.fromkeys(blocks.tolist())]
    chosen = stratified_indices([len(m) for m in members], reps, seed)
    return np.concatenate([m[i] for m, i in zip(members, chosen)], axis=1)


def _difference(
    pairs: np.ndarray, tested: np.ndarray, blocks: np.ndarray, probability: float
) -> Difference:
    estimate = aggregate(pairs, blocks) or Estimate(math.nan, math.nan, math.nan, 0)
    _, kept = _with_runs(pairs, blocks)
    p = _test(tested) if seeds_of(kept) >= FEW_SEEDS else math.nan
    return Difference(estimate, probability, p, p, len(kept))


def _test(x: np.ndarray) -> float:
    """Two-sided t-test of one number a seed; with no spread, the least p of changing signs."""
    seeds = iqm_present(x[~np.isnan(x).all(axis=1)])
    if np.ptp(seeds) <= 1e-9 * np.abs(seeds).max():
        return 2.0 ** (1 - len(seeds)) if seeds.any() else 1.0
    return float(np.asarray(ttest_1samp(seeds, 0.0))[1])


def _probability(a: np.ndarray, b: np.ndarray) -> float:
    """How often a run of `a` scores more than one of `b` of the same stratum, ties half."""
    shares = []
    for x, y in zip(a.T, b.T):
        x, y = x[~np.isnan(x)], y[~np.isnan(y)]
        if len(x) and len(y):
            shares.append(wins(x[:, None], y[None]).mean())
    return float(np.mean(shares)) if shares else math.nan


def _with_runs(x: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the seeds that have no run here."""
    keep = ~np.isnan(x).all(axis=1)
    return x[keep], blocks[keep]


def _finite(x: np.ndarray, worst: float) -> np.ndarray:
    return np.where(np.isinf(x), worst, x)


def _band(middle: float, draws: np.ndarray) -> tuple[float, float, float]:
    found = with_interval(draws[:1], iqm_present, draws, LEVEL, 0)
    return float(middle), found.low, found.high
