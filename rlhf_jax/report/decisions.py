"""Is one arm better than another, the same, or is there a trend: decisions from scores of runs.

The protocol's rules, on matrices `[seeds, instances]` whose arms share seeds and instances. What a
run that diverged counts as must be said, as in `rlhf_jax.report.stats`.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr

from rlhf_jax.report.stats import (
    LEVEL,
    REPS,
    Estimate,
    Statistic,
    iqm,
    probability_of_improvement,
    replicates,
    settle,
    wins,
    with_interval,
)


class Comparison(NamedTuple):
    """How much more arm `a` scores than arm `b`."""

    difference: Estimate
    probability: float  # that a run of a scores more than one of b
    p: float  # two-sided, of no difference
    draws: np.ndarray  # the difference in each resample; empty where nothing can be resampled

    @property
    def greater(self) -> bool:
        """The protocol's "a > b": the interval is above 0 and three runs of four are better."""
        return self.difference.low > 0 and self.probability >= 0.75


class Equivalence(NamedTuple):
    """Whether two arms differ by less than a margin."""

    p: float  # the larger of the two one-sided tests
    equivalent: bool  # both ends of the interval are inside the margin


class Trend(NamedTuple):
    """A Jonckheere-Terpstra test."""

    statistic: float
    z: float
    p: float  # one-sided, of no increase


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    statistic: Statistic = iqm,
    *,
    diverged: float | None = None,
    reps: int = REPS,
    level: float = LEVEL,
    seed: int = 0,
) -> Comparison:
    """Compares two arms run on the same seeds of the same instances.

    Aggregates a - b, so that what a seed does to both arms cancels, and resamples the pairs.

    Args:
      a, b: `[seeds, instances]`, higher is better (negate what is not).
      statistic, reps, level, seed: as in `estimate`.
      diverged: what a run without a finite score counts as; two in one pair are a tie.

    Returns:
      The difference in the unit of `a` (`not_finite` counts runs of both), the probability that
      `a` is greater, and p = 2 min(P(d* <= 0), P(d* >= 0)) over resamples d*.

    Raises:
      ValueError: shapes differ, or a score is not finite and `diverged` is None.

    >>> a = np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]])
    >>> found = paired_difference(a, a - 0.5)
    >>> print(*found.difference, found.greater)
    0.5 0.5 0.5 6 0 False
    """
    (a, lost), (b, lost_b) = settle(a, diverged), settle(b, diverged)
    if a.shape != b.shape:
        raise ValueError(f"arms to be paired have equal shapes, not {a.shape} and {b.shape}")
    pairs = list(np.subtract(a, b, out=np.zeros_like(a), where=a != b).T)
    draws = replicates(pairs, statistic, reps, seed)
    found = with_interval(np.concatenate(pairs), statistic, draws, level, lost + lost_b)
    p = min(1.0, 2 * min(_share(~(draws > 0)), _share(~(draws < 0))))
    return Comparison(found, probability_of_improvement(a, b, diverged=diverged), p, draws)


def tost(compared: Comparison, margin: float) -> Equivalence:
    """Whether two arms are the same up to a margin, by two one-sided tests.

    Equivalent: -margin < low and high < margin; p = max(P(d* <= -margin), P(d* >= margin)).

    Args:
      compared: from `paired_difference`.
      margin: in the unit of the scores; to be fixed before anything is run.

    Raises:
      ValueError: the margin is not positive.

    Source: Schuirmann 1987, doi:10.1007/BF01068419, on resamples d*.

    >>> a = np.array([[1.0], [2.0], [3.0]])
    >>> [tost(paired_difference(a, a + 0.1), m).equivalent for m in (0.2, 0.05)]
    [True, False]
    """
    if not margin > 0:
        raise ValueError(f"a margin of equivalence is positive, not {margin}")
    (_, low, high, *_), draws = compared.difference, compared.draws
    p = max(_share(~(draws > -margin)), _share(~(draws < margin)))
    return Equivalence(p, bool(-margin < low and high < margin))


def holm(p: ArrayLike) -> np.ndarray:
    """Holm's adjusted p-values of several tests, in their order.

    With p_(1) <= ... <= p_(m) sorted, adjusted p_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)).

    Raises:
      ValueError: a p-value is not within 0 and 1.

    Source: Holm 1979, www.jstor.org/stable/4615733.

    >>> holm([0.01, 0.04, 0.03])
    array([0.03, 0.06, 0.06])
    """
    p = np.asarray(p, float)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"p-values are a list of numbers from 0 to 1, not {p}")
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, np.arange(len(p), 0, -1) * p[order])
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted


def trend(groups: Sequence[ArrayLike], *, diverged: float | None = None) -> Trend:
    """Jonckheere and Terpstra's test: do scores rise from group to group?

    J = sum over groups i < j of Mann-Whitney's U_ij, normal with the variance for ties.

    Args:
      groups: scores, an array a dose, in the order of the doses.
      diverged: what a run without a finite score counts as.

    Raises:
      ValueError: fewer than two groups or an empty one; all scores are equal; a score is not
        finite and `diverged` is None.

    Source: Hollander, Wolfe and Chicken 2014, section 6.2.

    >>> trend([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0], [5.0, 6.0, 7.0]]).statistic
    25.0
    """
    arms = [settle(group, diverged)[0].ravel() for group in groups]
    sizes = np.array([len(x) for x in arms])
    if len(arms) < 2 or not sizes.all():
        raise ValueError(f"a trend needs two groups with runs in each, not sizes {sizes.tolist()}")
    ties = np.unique(np.concatenate(arms), return_counts=True)[1]
    if len(ties) == 1:
        raise ValueError("a trend needs scores that differ")
    pairs = itertools.combinations(arms, 2)
    total = float(sum(wins(y[:, None], x[None]).sum() for x, y in pairs))
    mean = (sizes.sum() ** 2 - (sizes**2).sum()) / 4
    z = float((total - mean) / np.sqrt(_trend_variance(sizes, ties)))
    return Trend(total, z, float(ndtr(-z)))


def _trend_variance(sizes: np.ndarray, ties: np.ndarray) -> float:
    """Variance of J without a trend; `ties` counts each distinct score."""

    def sums(count: np.ndarray) -> np.ndarray:
        pairs = count * (count - 1)
        return np.array([pairs @ (2 * count + 5), pairs @ (count - 2), pairs.sum()], float)

    own, tied, n = sums(sizes), sums(ties), float(sizes.sum())
    first = (n * (n - 1) * (2 * n + 5) - own[0] - tied[0]) / 72
    second = own[1] * tied[1] / (36 * n * (n - 1) * (n - 2)) if n > 2 else 0.0
    return first + second + own[2] * tied[2] / (8 * n * (n - 1))


def _share(hits: np.ndarray) -> float:
    """Share of resamples, never 0 (the data are a resample too); 1 if nothing was resampled."""
    return float((1 + hits.sum()) / (1 + len(hits)))
