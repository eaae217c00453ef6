"""Arms of a sweep against each other, on scores as in `rlhf_jax.report.sweep_aggregate`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import ttest_1samp, ttest_ind

from rlhf_jax.report.card_numbers import FEW_SEEDS
from rlhf_jax.report.decisions import holm
from rlhf_jax.report.stats import LEVEL, REPS, Estimate, iqm_present, wins, with_interval
from rlhf_jax.report.sweep_aggregate import aggregate, resampled, seeds_of, with_runs

ALPHA = 1 - LEVEL
MOSTLY = 0.75  # of the pairs of runs: the protocol's second condition


class Difference(NamedTuple):
    """How much more one arm scores than another, or a contrast of several."""

    estimate: Estimate
    probability: float  # that a run of the first scores more; nan for a contrast
    p: float  # two-sided, of no difference; nan where it cannot be tested
    adjusted: float  # Holm's, over all comparisons made together
    seeds: int  # of the arm that has fewer
    paired: bool = True  # the arms share their seeds

    @property
    def sure(self) -> bool:
        """The interval excludes 0, and so does the test after correction."""
        value, low, high, *_ = self.estimate
        return bool(low * high > 0 and low * value > 0 and self.adjusted <= ALPHA)

    @property
    def clear(self) -> bool:
        """The protocol's "a > b", or b > a: sure, and so for three runs of four."""
        return self.sure and max(self.probability, 1 - self.probability) >= MOSTLY


def compare(a: np.ndarray, b: np.ndarray, blocks: np.ndarray, worst: float = 0.0) -> Difference:
    """Two arms run with the same other settings, and if they can be paired on the same seeds.

    The interquartile mean of all pairs a - b with its bootstrap interval, and a t-test on one
    number a seed, the interquartile mean of its pairs: an interval by bootstrap alone is too
    narrow for few seeds. Arms of other seeds each: see `unpaired`.

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
    pairs = _minus(np.where(missing, np.nan, a), np.where(missing, np.nan, b))
    if seeds_of(with_runs(pairs, blocks)[1]) < FEW_SEEDS:
        found = unpaired(a, b, blocks, worst)
        if not math.isnan(found.p):
            return found
    a, b = np.where(missing, np.nan, a), np.where(missing, np.nan, b)
    tested = _finite(a, worst) - _finite(b, worst)
    return _difference(pairs, tested, blocks, _probability(a, b))


def unpaired(a: np.ndarray, b: np.ndarray, blocks: np.ndarray, worst: float = 0.0) -> Difference:
    """Two arms of different seeds: the difference of their interquartile means.

    Each arm's seeds are resampled by themselves; Welch's t-test on one number a seed, the
    interquartile mean of its runs. Only strata in which both arms have runs count.

    Args:
      a, b, blocks, worst: as in `compare`.

    >>> a = np.array([[1.0], [2.0], [3.0], [np.nan], [np.nan], [np.nan]])
    >>> found = unpaired(a, a[::-1] + 4.0, np.zeros(6))
    >>> round(found.estimate.value, 3), round(found.p, 3), found.paired
    (-4.0, 0.008, False)
    """
    both = ~np.isnan(a).all(axis=0) & ~np.isnan(b).all(axis=0)
    sides = [with_runs(x[:, both], blocks) for x in (a, b)]
    seeds = min(seeds_of(own) for _, own in sides)
    if seeds < FEW_SEEDS or len({frozenset(own.tolist()) for _, own in sides}) > 1:
        nothing = Estimate(math.nan, math.nan, math.nan, 0)
        return Difference(nothing, math.nan, math.nan, math.nan, seeds, False)
    draws = [resampled(x, own, REPS, seed=i) for i, (x, own) in enumerate(sides)]
    value = _minus(*(iqm_present(x[~np.isnan(x)]) for x, _ in sides))
    runs = sum(int((~np.isnan(x)).sum()) for x, _ in sides)
    lost = sum(int(np.isinf(x).sum()) for x, _ in sides)
    found = with_interval(value[None], iqm_present, _minus(*draws), LEVEL, lost)
    p = _welch(*(iqm_present(_finite(x, worst)) for x, _ in sides))
    chance = _probability(a[:, both], b[:, both])
    return Difference(found._replace(runs=runs), chance, p, p, seeds, False)


def contrast(x: np.ndarray, blocks: np.ndarray) -> Difference:
    """Whether sums of several arms, `[seeds, strata]`, differ from 0; all finite or nan."""
    return _difference(x, x, blocks, math.nan)


def corrected(found: Sequence[Difference]) -> list[Difference]:
    """The same with Holm's correction over all that could be tested."""
    tested = [i for i, d in enumerate(found) if not math.isnan(d.p)]
    adjusted = dict(zip(tested, holm([found[i].p for i in tested]).tolist()))
    return [d._replace(adjusted=adjusted.get(i, math.nan)) for i, d in enumerate(found)]


def _difference(
    pairs: np.ndarray, tested: np.ndarray, blocks: np.ndarray, probability: float
) -> Difference:
    estimate = aggregate(pairs, blocks) or Estimate(math.nan, math.nan, math.nan, 0)
    _, kept = with_runs(pairs, blocks)
    p = _test(tested) if seeds_of(kept) >= FEW_SEEDS else math.nan
    return Difference(estimate, probability, p, p, len(kept))


def _minus(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a - b, where two that diverged are a tie."""
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, a - b)


def _welch(a: np.ndarray, b: np.ndarray) -> float:
    """Welch's two-sided t-test; with no spread, the least p of exchanging seeds."""
    everything = np.concatenate([a, b])
    if max(np.ptp(a), np.ptp(b)) <= 1e-9 * np.abs(everything).max():
        same = np.ptp(everything) <= 1e-9 * np.abs(everything).max()
        return 1.0 if same else 2 / math.comb(len(everything), len(a))
    return float(np.asarray(ttest_ind(a, b, equal_var=False))[1])


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


def _finite(x: np.ndarray, worst: float) -> np.ndarray:
    return np.where(np.isinf(x), worst, x)
