"""Aggregates of runs over seeds and task instances, with their intervals.

A matrix of scores is `[seeds, instances]`. A run that diverged has no score: `diverged` says what
it counts as (infinity where less is better), and without it such a matrix is refused. Nothing here
leaves a run out. Everything random follows from `seed`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

REPS = 2000
LEVEL = 0.95
Statistic = Callable[..., np.ndarray]  # (array, axis=int) -> array without that axis
Indices = Sequence[np.ndarray] | np.ndarray


class Estimate(NamedTuple):
    """An aggregate with its interval; the ends are nan where no instance has two seeds."""

    value: float
    low: float
    high: float
    runs: int
    not_finite: int = 0  # of the runs, those without a score


def iqm(x: ArrayLike, axis: int | None = None) -> np.ndarray:
    """Interquartile mean, the mean without the lowest and the highest quarter of the values.

    The mean of x[floor(n/4) : n - floor(n/4)] of n sorted values; nan if any value is nan.

    Args:
      x: scores, any shape.
      axis: the one averaged over; None: all.

    Returns:
      `x` without `axis`, in the unit of `x`.

    Raises:
      ValueError: there are no values.

    Source: arXiv:2108.13264, section 4.

    >>> iqm([0.0, 1.0, 2.0, 100.0]), iqm([[1.0, 2.0], [3.0, np.inf]], axis=0)
    (np.float64(1.5), array([ 2., inf]))
    """
    values = np.asarray(x, float)
    values = values.ravel() if axis is None else np.moveaxis(values, axis, -1)
    size = values.shape[-1]
    if not size:
        raise ValueError("no mean of no runs")
    cut = size // 4
    middle = np.partition(values, [cut, size - cut - 1])[..., cut : size - cut]
    with np.errstate(invalid="ignore"):  # inf - inf is nan
        return np.where(np.isnan(values).any(-1), np.nan, middle.mean(-1))[()]


def iqm_present(x: ArrayLike, axis: int = -1) -> np.ndarray:
    """As `iqm` of the values that are not nan; nan where there are none.

    Args:
      x: scores, nan where a run is missing.
      axis: the one averaged over.

    >>> iqm_present([[0.0, 1.0, np.nan, 2.0, 100.0], [3.0, np.nan, np.nan, np.nan, np.nan]])
    array([1.5, 3. ])
    """
    values = np.sort(np.moveaxis(np.asarray(x, float), axis, -1), axis=-1)  # nan is sorted last
    size = np.sum(~np.isnan(values), axis=-1, keepdims=True)
    place = np.arange(values.shape[-1])
    kept = (place >= size // 4) & (place < size - size // 4)
    with np.errstate(invalid="ignore", divide="ignore"):  # inf - inf is nan, and so is 0 / 0
        return (np.where(kept, values, 0.0).sum(-1) / kept.sum(-1))[()]


def settle(x: ArrayLike, diverged: float | None) -> tuple[np.ndarray, int]:
    """Puts `diverged` where a score is not finite, and counts those.

    Raises:
      ValueError: a score is not finite and `diverged` is None.

    >>> settle([0.5, np.nan], np.inf)
    (array([0.5, inf]), 1)
    """
    values = np.asarray(x, float)
    lost = ~np.isfinite(values)
    if lost.any() and diverged is None:
        raise ValueError(
            f"{lost.sum()} of {lost.size} runs have no finite score: say with diverged= what such "
            "a run counts as (inf where less is better, -inf where more is)"
        )
    return np.where(lost, 0.0 if diverged is None else diverged, values), int(lost.sum())


def stratified_indices(sizes: Sequence[int], reps: int, seed: int) -> list[np.ndarray]:
    """Which seeds each resample takes of each instance: `[reps, n]` for an instance of n seeds."""
    rng = np.random.default_rng(seed)
    return [rng.integers(n, size=(reps, n)) for n in sizes]


def resample(strata: Sequence[np.ndarray], indices: Indices) -> np.ndarray:
    """Resampled runs `[reps, runs]`: seeds are drawn within their instance, instances are kept."""
    return np.concatenate([x[i] for x, i in zip(strata, indices, strict=True)], axis=1)


def estimate(
    x: np.ndarray | Sequence[np.ndarray],
    statistic: Statistic = iqm,
    *,
    diverged: float | None = None,
    reps: int = REPS,
    level: float = LEVEL,
    seed: int = 0,
    indices: Indices | None = None,
) -> Estimate:
    """An aggregate over runs with its stratified percentile bootstrap interval.

    Args:
      x: array `[seeds, instances]`; or a list of arrays, an instance each, of any number of seeds.
      statistic: called as `statistic(runs, axis=-1)`.
      diverged: what a run without a finite score counts as.
      reps: resamples; each draws every instance's seeds anew, with replacement.
      level: of the interval.
      seed: of the resampling.
      indices: the seeds to take, one `[reps, n]` an instance, instead of random ones.

    Returns:
      The aggregate of all runs and the (1 - level)/2 and (1 + level)/2 quantiles of the resamples'.

    Raises:
      ValueError: no runs, or a score is not finite and `diverged` is None.

    Source: arXiv:2108.13264, section 4.1; rliable's `get_interval_estimates`.

    >>> print(*estimate(np.array([[1.0, 5.0], [2.0, 6.0], [3.0, 7.0]])))
    4.0 3.25 4.75 6 0
    """
    strata, lost = _strata(x, diverged)
    draws = replicates(strata, statistic, reps, seed, indices)
    return with_interval(np.concatenate(strata), statistic, draws, level, lost)


def probability_of_improvement(
    a: ArrayLike, b: ArrayLike, *, diverged: float | None = None
) -> float:
    """How often a run of `a` scores more than one of `b`, ties half, averaged over instances.

    P = mean_m [ sum_ij (a_im > b_jm) + (a_im = b_jm)/2 ] / (n_a n_b): Mann-Whitney's U.

    Args:
      a, b: `[seeds, instances]`; the numbers of seeds may differ.
      diverged: what a run without a finite score counts as.

    Raises:
      ValueError: instances differ, or a score is not finite and `diverged` is None.

    Source: arXiv:2108.13264, section 4.3.

    >>> probability_of_improvement([[1.0], [3.0]], [[1.0], [2.0]])
    0.625
    """
    (a, _), (b, _) = settle(a, diverged), settle(b, diverged)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1]:
        raise ValueError(f"[seeds, instances] of the same instances, not {a.shape} and {b.shape}")
    return float(wins(a[:, None], b[None]).mean())


def _strata(
    x: np.ndarray | Sequence[np.ndarray], diverged: float | None
) -> tuple[list[np.ndarray], int]:
    """The scores of each instance, and how many runs have none."""
    columns = x.T if isinstance(x, np.ndarray) else x
    settled = [settle(column, diverged) for column in columns]
    if not settled or any(scores.ndim != 1 for scores, _ in settled):
        raise ValueError("scores are [seeds, instances], or a list of arrays of seeds")
    return [scores for scores, _ in settled], sum(lost for _, lost in settled)


def replicates(
    strata: Sequence[np.ndarray],
    statistic: Statistic,
    reps: int,
    seed: int,
    indices: Indices | None = None,
) -> np.ndarray:
    """The aggregate of each resample; none where every instance has a single seed."""
    sizes = [len(x) for x in strata]
    if max(sizes, default=0) < 2:
        return np.empty(0)
    if indices is None:
        indices = stratified_indices(sizes, reps, seed)
    return statistic(resample(strata, indices), axis=-1)


def with_interval(
    runs: np.ndarray, statistic: Statistic, draws: np.ndarray, level: float, lost: int
) -> Estimate:
    """The aggregate of all runs between two quantiles of the resamples'."""
    low, high = (_quantile(draws, (1 + sign * level) / 2) for sign in (-1, 1))
    return Estimate(float(statistic(runs, axis=-1)), low, high, len(runs), lost)


def _quantile(draws: np.ndarray, q: float) -> float:
    """As `np.quantile`, but a place beside an infinity is infinite, not nan; nan of no draws."""
    if not len(draws) or np.isnan(draws).any():
        return float("nan")
    place = q * (len(draws) - 1)
    low, high = np.sort(draws)[[int(np.floor(place)), int(np.ceil(place))]].tolist()
    return low if low == high or np.isinf(low) else low + (high - low) * (place % 1)


def wins(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 where a is greater, 1/2 where they are equal."""
    return (a > b) + 0.5 * (a == b)
