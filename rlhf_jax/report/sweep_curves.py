"""Curves of a sweep's runs on common points: through training, and reward against KL."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from rlhf_jax.report.style import smooth
from rlhf_jax.report.sweep_answers import Answer, answer
from rlhf_jax.report.sweep_compare import compare, corrected
from rlhf_jax.report.sweep_factors import Factor
from rlhf_jax.report.sweep_question import Question, at
from rlhf_jax.report.sweep_study import Study

POINTS = 40
REACHED = 0.75  # of an arm's runs must come as far as a KL for the arm to be shown there
REWARDS = ("exact/gold", "exact/reward", "gold/score", "objective/scores")
LEAST_KL = 0.01  # nats; runs that went no further have not moved
FAR = 1.5  # times the KL: a setting that decides how far runs go
KLS = ("exact/kl", "objective/kl")
SMOOTHED = 10  # a running mean over a tenth of the updates to each side


class Curves(NamedTuple):
    """A metric of every run on common points, each the mean of what was logged around it."""

    x: np.ndarray  # [points]
    counted: str  # what x counts
    y: np.ndarray  # [runs, points], nan where a run logged nothing


class Frontier(NamedTuple):
    """Reward against KL, from the start of every run to its end."""

    kl_metric: str
    metric: str
    kl: list[np.ndarray]  # one a run, rising: the points where its KL was larger than ever before
    reward: list[np.ndarray]
    ends: np.ndarray  # [runs, 2], KL and reward at the end; nan for a run that has none

    def rewards_at(self, kl: np.ndarray) -> np.ndarray:
        """Reward of each run `[runs, len(kl)]` when it first was so far; nan if it never was."""
        found = np.full((len(self.kl), len(kl)), np.nan)
        for i, (x, y) in enumerate(zip(self.kl, self.reward)):
            if len(x):
                found[i] = np.interp(kl, x, y, right=np.nan)
        return found

    def reached(self) -> np.ndarray:
        """The largest KL of each run; nan for one without a curve."""
        return np.array([x[-1] if len(x) else np.nan for x in self.kl])


class Matched(NamedTuple):
    """The values of a factor compared where all of them have spent the same KL."""

    factor: Factor
    kl: tuple[float, float]  # the least and the largest, over combinations of the other settings
    answers: list[Answer]


def curves_of(study: Study, metric: str) -> Curves | None:
    """A metric through training; None if it was not logged at two points by any run."""
    tuned = study.tuned().query("metric == @metric")
    if tuned.empty:
        return None
    counted = "update" if tuned["episode"].hasnans else "episode"
    x = np.array(tuned[counted], dtype=float)
    points = min(POINTS, int(np.bincount(np.array(tuned["run"])).max()))
    if points < 2 or x.max() <= 0:
        return None
    place = np.clip(np.ceil(x / x.max() * points).astype(int) - 1, 0, points - 1)
    mean = tuned.assign(place=place).groupby(["run", "place"]).value.mean()
    y = np.full((len(study.runs), points), np.nan)
    y[mean.index.get_level_values(0), mean.index.get_level_values(1)] = mean.to_numpy()
    centres = (np.arange(points) + 0.5) / points * x.max()
    return Curves(centres, {"episode": "completions sampled"}.get(counted, counted), y)


def frontier(study: Study) -> Frontier | None:
    """Reward against KL; exact numbers where the task has them. None if runs did not log both."""
    tuned = study.tuned()
    logged = set(tuned["metric"])
    reward = next((m for m in REWARDS if m in logged), None)
    kl = next((m for m in KLS if m in logged), None)
    if reward is None or kl is None:
        return None
    both = tuned.query("metric == @reward or metric == @kl")
    wide = both.pivot_table(index=["run", "update"], columns="metric", values="value").dropna()
    tables = dict(iter(wide.groupby("run"))) if len(wide) else {}
    start = study.scores(_before(reward))
    paths = [_path(tables.get(i), kl, reward, start[i]) for i in range(len(study.runs))]
    records = [path[_rising(path[:, 0])] for path in paths]
    kls, rewards = ([r[:, i] for r in records] for i in (0, 1))
    return Frontier(kl, reward, kls, rewards, _ends(study, paths, kl, reward))


def matched(study: Study, found: Frontier) -> list[Matched]:
    """Each factor's values compared in pairs of runs at the same KL.

    In each combination of the other settings it is the largest KL that three runs of four reach
    with each of the values, as another setting may decide how far runs go.
    """
    reached, every = study.tensor(found.reached()), []
    for factor in study.factors:
        ends = np.stack([at(study, reached, {factor: v}) for v in factor.values])
        kl = _common(ends)
        if np.isfinite(kl).any():
            every.append((factor, kl))
    cases, differences = [], []
    for factor, kl in every:
        sides = _rewards(study, found, factor, kl)
        for a, b in itertools.combinations(factor.values, 2):
            cases.append((factor, a, b))
            first, second = (sides[factor.values.index(v)] for v in (a, b))
            differences.append(compare(first, second, study.blocks))
    question = Question(study, found.metric)
    told = [answer(question, f, a, b, d) for (f, a, b), d in zip(cases, corrected(differences))]
    return [
        Matched(f, (float(np.nanmin(kl)), float(np.nanmax(kl))), _of(f, cases, told))
        for f, kl in every
    ]


def facet(study: Study, found: Frontier, factor: Factor | None) -> Factor | None:
    """Another factor that decides how far runs go; None if none changes the KL by half."""
    reached = study.tensor(found.reached())
    spread = {}
    for other in study.factors:
        parts = [at(study, reached, {other: v}) for v in other.values]
        if other != factor and not any(np.isnan(p).all() for p in parts):
            middle = [float(np.nanmedian(p)) for p in parts]
            spread[other] = max(middle) / max(min(middle), 1e-9)
    most = max(spread, key=spread.__getitem__, default=None)
    return most if most is not None and spread[most] > FAR else None


def at_kl(
    study: Study, found: Frontier, values: Mapping[Factor, object], kl: np.ndarray
) -> np.ndarray:
    """Rewards `[seeds, strata, len(kl)]` of an arm; nan where too few of its runs came so far."""
    part = at(study, study.tensor(found.rewards_at(kl)), values)
    ran = ~np.isnan(at(study, study.tensor(found.reached()), values))
    few = (~np.isnan(part)).sum(axis=(0, 1)) < max(REACHED * ran.sum(), 1)
    return np.where(few, np.nan, part)


def _common(ends: np.ndarray) -> np.ndarray:
    """KL that three runs of four reach with each value, `[values, seeds, strata]` to `[strata]`."""
    kl = np.full(ends.shape[-1], np.nan)
    for i in range(len(kl)):
        some = [x[~np.isnan(x)] for x in ends[..., i]]
        if all(len(x) for x in some):
            kl[i] = min(np.quantile(x, 1 - REACHED, method="lower") for x in some)
    return np.where(kl > LEAST_KL, kl, np.nan)


def _rewards(study: Study, found: Frontier, factor: Factor, kl: np.ndarray) -> list[np.ndarray]:
    """Rewards `[seeds, strata]` of each value of a factor, each stratum at its own KL."""
    grid = np.unique(kl[~np.isnan(kl)])
    full = study.tensor(found.rewards_at(grid))
    axis = 1 + study.factors.index(factor)
    place = np.searchsorted(grid, np.nan_to_num(kl, nan=grid[0]))
    sides = []
    for i in range(len(factor.values)):
        part = np.take(full, i, axis).reshape(len(full), len(kl), len(grid))
        side = part[:, np.arange(len(kl)), place]
        sides.append(np.where(np.isnan(kl), np.nan, side))
    return sides


def _of(factor: Factor, cases: Sequence[tuple], told: Sequence[Answer]) -> list[Answer]:
    return [t for case, t in zip(cases, told) if case[0] == factor]


def _ends(study: Study, paths: Sequence[np.ndarray], kl: str, reward: str) -> np.ndarray:
    """Final KL and reward `[runs, 2]`, as in the tables; without them where the path ends."""
    finals = [study.scores(n if n in study.runs else f"after/{n}") for n in (kl, reward)]
    last = np.array([path[-1] if len(path) > 1 else (np.nan,) * 2 for path in paths], float)
    finished = np.array(study.runs["status"] == "finished")[:, None]
    ends = np.stack(finals, axis=1)
    ends = np.where(np.isnan(ends).any(axis=1, keepdims=True), last, ends)
    return np.where(finished, ends, np.nan)


def _path(table: pd.DataFrame | None, kl: str, reward: str, start: float) -> np.ndarray:
    """KL and reward from the reference on, `[points, 2]`.

    What is estimated from samples is smoothed first: noise in the KL alone would set records, and
    put down to a KL the reward that belongs to a smaller one.
    """
    if table is None:
        return np.empty((0, 2))
    columns = [table[name].to_numpy(float) for name in (kl, reward)]
    if not kl.startswith("exact/"):
        columns = [smooth(c, max(1, len(c) // SMOOTHED)) for c in columns]
    path = np.stack(columns, axis=1)
    return path if np.isnan(start) else np.concatenate([[[0.0, start]], path])


def _rising(kl: np.ndarray) -> np.ndarray:
    """Where the KL is larger than ever before."""
    if not len(kl):
        return np.empty(0, bool)
    highest = np.maximum.accumulate(kl)
    return np.concatenate([[True], highest[1:] > highest[:-1]])


def _before(reward: str) -> str:
    """The column that has the reference's reward."""
    gold = reward in ("exact/gold", "gold/score")
    return "before/gold/score" if gold else "before/objective/scores"
