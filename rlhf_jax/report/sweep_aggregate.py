"""Arms of a sweep by themselves, on scores `[seeds, strata]` of which some may be missing.

A stratum is a combination of the other factors; all runs of a seed are drawn together, because they
share what the seed does. nan is a run that is missing, minus infinity one that diverged.
"""

from __future__ import annotations

import numpy as np

from rlhf_jax.report.card_numbers import FEW_SEEDS
from rlhf_jax.report.stats import (
    LEVEL,
    REPS,
    Estimate,
    iqm_present,
    stratified_indices,
    with_interval,
)


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
    x, blocks = with_runs(x, blocks)
    runs = x[~np.isnan(x)]
    if not len(runs):
        return None
    draws = np.empty(0)
    if seeds_of(blocks) >= FEW_SEEDS:
        draws = resampled(x, blocks, reps)
    return with_interval(runs, iqm_present, draws, LEVEL, int(np.isinf(runs).sum()))


def bands(x: np.ndarray, blocks: np.ndarray, reps: int = REPS) -> np.ndarray:
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


def resampled(x: np.ndarray, blocks: np.ndarray, reps: int, seed: int = 0) -> np.ndarray:
    """The aggregate of each resample of whole seeds."""
    return iqm_present(x[drawn(blocks, reps, seed)].reshape(reps, -1))


def with_runs(x: np.ndarray, blocks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without the seeds that have no run here."""
    keep = ~np.isnan(x).all(axis=1)
    return x[keep], blocks[keep]


def _band(middle: float, draws: np.ndarray) -> tuple[float, float, float]:
    found = with_interval(draws[:1], iqm_present, draws, LEVEL, 0)
    return float(middle), found.low, found.high
