"""Preference pairs from single human votes: one person's rating of each of two texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Votes(NamedTuple):
    """Rows of the texts compared, the better one first."""

    chosen: np.ndarray  # [N] int64
    rejected: np.ndarray  # [N] int64
    margin: np.ndarray  # [N] float32, difference of the two ratings, > 0


def split_groups(keys: Sequence[str], share: float, rng: np.random.Generator) -> np.ndarray:
    """Which rows are held out, [N] bool: rows with one key, the copies of a text, stay together.

    >>> split_groups(["a", "b", "a", "b"], 0.5, np.random.default_rng(0)).tolist()
    [True, False, True, False]
    """
    unique = sorted(set(keys))
    chosen = rng.permutation(len(unique))[: max(1, round(share * len(unique)))]
    held = {unique[i] for i in chosen}
    return np.array([key in held for key in keys])


def draw_votes(ratings: Sequence[Sequence[int]], number: int, rng: np.random.Generator) -> Votes:
    """Draws two texts and one rating of each until `number` draws are no tie; the higher wins.

    Raises: ValueError where every rating is the same, so no pair can ever be decided.

    >>> votes = draw_votes([[1, 2], [-3]], 4, np.random.default_rng(0))
    >>> votes.chosen.tolist(), votes.rejected.tolist()
    ([0, 0, 0, 0], [1, 1, 1, 1])
    """
    if len({r for row in ratings for r in row}) < 2 or len(ratings) < 2:
        raise ValueError("pairs need two texts and two different ratings")
    sizes = np.array([len(row) for row in ratings])
    flat = np.concatenate([np.asarray(row, np.int64) for row in ratings])
    starts = np.cumsum(sizes) - sizes
    drawn: list[np.ndarray] = []
    have = 0
    while have < number:
        rows = rng.integers(0, len(sizes), (2, number))  # [2, N]
        votes = flat[starts[rows] + (rng.random(rows.shape) * sizes[rows]).astype(np.int64)]
        decided = (votes[0] != votes[1]) & (rows[0] != rows[1])
        drawn.append(np.concatenate([rows, votes])[:, decided])  # [4, kept]
        have += int(decided.sum())
    one, two, vote_one, vote_two = np.concatenate(drawn, axis=1)[:, :number]
    first = vote_one > vote_two
    gap = np.abs(vote_one - vote_two).astype(np.float32)
    return Votes(np.where(first, one, two), np.where(first, two, one), gap)


def bayes_accuracy(ratings: Sequence[Sequence[int]], votes: Votes) -> float:
    """How often the mean rating orders a vote's two texts rightly; equal means count half."""
    means = np.array([np.mean(row) for row in ratings])
    gap = means[votes.chosen] - means[votes.rejected]
    return float(np.mean((gap > 0) + 0.5 * (gap == 0)))
