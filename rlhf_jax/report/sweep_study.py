"""What a sweep asked: its factors with their values, its seeds, and a score for each run."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlhf_jax.report.results import SUPERVISED, write_results
from rlhf_jax.report.sweep_factors import (
    INSTANCE,
    SEEDS,
    Factor,
    factor_of,
    shown,
    sparse,
    split_settings,
)
from rlhf_jax.report.sweep_jobs import UNTOUCHED, Job, differs, load_sweep, varied

OUTCOMES = ("after/gold/score", "after/objective/scores")
LOWER = ("gap", "gap_share", "kl_to_optimum", "loss", "heldout_loss", "above_envelope")


@dataclass(frozen=True)
class Study:
    """One sweep, or several that are compared.

    `runs` has a row a job: those of `results.csv`, `sweep`, and `unit`, the seed and instance.
    """

    directories: tuple[Path, ...]
    runs: pd.DataFrame
    curves: pd.DataFrame
    jobs: tuple[Job, ...]  # one a row of `runs`
    factors: tuple[Factor, ...]
    searched: tuple[Factor, ...]
    follow: Mapping[str, str]  # a setting that changed only together with a factor: that factor
    held: Mapping[str, Any]
    records: tuple[Mapping[str, Any], ...]  # of sweep.json, one a directory

    @functools.cached_property
    def units(self) -> list[str]:
        """Seeds, each within its instance."""
        return list(dict.fromkeys(self.runs.unit))

    @functools.cached_property
    def blocks(self) -> np.ndarray:
        """The instance of each unit."""
        first = self.runs.drop_duplicates("unit").set_index("unit")
        return first.loc[self.units, "block"].to_numpy()

    @property
    def seeds(self) -> int:
        """How many seeds there are, the fewest of an instance."""
        return int(np.unique(self.blocks, return_counts=True)[1].min())

    def tensor(self, values: np.ndarray) -> np.ndarray:
        """Numbers of the runs `[runs, ...]` by unit and value of each factor; nan: no such run."""
        shape = (len(self.units), *(len(f.values) for f in self.factors))
        full = np.full(shape + values.shape[1:], np.nan)
        full[tuple(self._places.T)] = values
        return full

    def mask(self, values: Mapping[Factor, Any]) -> np.ndarray:
        """Which runs have these values."""
        mine = np.ones(len(self.runs), bool)
        for factor, value in values.items():
            mine &= np.array([v == value for v in self.runs[factor.key]])
        return mine

    @functools.cached_property
    def _places(self) -> np.ndarray:
        """Unit and value of each factor of each run, as indices `[runs, 1 + factors]`."""
        columns = [list(map(self.units.index, self.runs.unit))]
        for factor in self.factors:
            columns.append([factor.values.index(v) for v in self.runs[factor.key]])
        return np.array(columns).T

    def tuned(self) -> pd.DataFrame:
        """Curves of the stage that improves the policy, whatever its algorithm is called."""
        return self.curves.loc[~self.curves["stage"].isin(SUPERVISED)]

    def scores(self, column: str, lost: float = np.nan) -> np.ndarray:
        """A column of `runs`, with `lost` for those that diverged and nan for those that failed."""
        empty = pd.Series(np.nan, index=self.runs.index)
        found = np.array(self.runs.get(column, empty), dtype=float)
        found[(self.runs.status == "diverged").to_numpy()] = lost
        return found


def read_study(directories: Sequence[Path]) -> Study:
    """Reads sweeps, and writes `results.csv` and `curves.parquet` of each.

    Raises:
      FileNotFoundError: see `read_jobs`.
    """
    parts = [write_results(path) for path in directories]
    jobs = [job for found, _, _ in parts for job in found]
    names = _names(directories)
    runs = pd.concat([t.assign(sweep=n) for n, (_, t, _) in zip(names, parts)], ignore_index=True)
    curves = pd.concat([c.assign(sweep=n) for n, (_, _, c) in zip(names, parts)])
    runs["block"] = [shown(job.config.get(INSTANCE, 0)) for job in jobs]
    shared = [k for k in (*SEEDS, INSTANCE) if differs(jobs, k)] or [SEEDS[0]]
    runs["unit"] = [_unit(job, shared) for job in jobs]
    for key in varied(jobs):
        runs[key] = pd.Series([_hashable(job.setting(key)) for job in jobs], dtype=object)
    searched, chosen, follow = split_settings(jobs, runs)
    if not searched and runs.duplicated([*chosen, "unit"]).any():
        chosen.append("sweep")
    if not searched and sparse(runs, chosen):
        searched, chosen = [key for key in chosen if key != "sweep"], []
    factors = () if searched else tuple(factor_of(key, list(runs[key])) for key in chosen)
    moving = {*varied(jobs), *UNTOUCHED}
    held = {k: v for k, v in jobs[0].config.items() if not {k, k.split(".")[0]} & moving}
    return Study(
        directories=tuple(directories),
        runs=_numbered(runs) if searched else runs,
        curves=_with_rows(curves, runs),
        jobs=tuple(jobs),
        factors=factors,
        searched=tuple(factor_of(key, list(runs[key])) for key in searched),
        follow=follow,
        held=held,
        records=tuple(load_sweep(path) for path in directories),
    )


def outcome(study: Study, metric: str | None = None) -> str:
    """The column of `results.csv` that is reported: the one asked for, else the best known reward.

    Raises:
      ValueError: no run has it.
    """
    known = [c for c in study.runs if str(c).startswith(("after/", "exact/"))]
    if metric is None:
        found = [name for name in (*OUTCOMES, *known) if name in known]
        return found[0] if found else OUTCOMES[0]
    for name in (metric, f"after/{metric}"):
        if name in known:
            return name
    names = ", ".join(str(c).removeprefix("after/") for c in known) or "none: no run has ended"
    raise ValueError(f"metric {metric}: not a final number of these runs; they have {names}")


def lower_is_better(column: str) -> bool:
    """Whether less of a final number is better.

    >>> lower_is_better("exact/gap_share"), lower_is_better("after/gold/score")
    (True, False)
    """
    return column.rpartition("/")[2] in LOWER


def _with_rows(curves: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Curves that name the row of their run in `run`."""
    places = runs.loc[:, ["sweep", "job"]].assign(run=range(len(runs)))
    return curves.merge(places, on=["sweep", "job"])


def _unit(job: Job, keys: Sequence[str]) -> str:
    """What a run shares with those it is paired with: its seeds, and the instance."""
    return ", ".join(f"{k.rpartition('.')[2]} {job.setting(k)}" for k in keys)


def _numbered(runs: pd.DataFrame) -> pd.DataFrame:
    """Trials of a search: each run is a unit of its own."""
    return runs.assign(unit=[f"run {i}" for i in runs.index])


def _hashable(value: Any) -> Any:
    return str(value) if isinstance(value, list | dict) else value


def _names(directories: Sequence[Path]) -> list[str]:
    """What sweeps are called: the ends of their paths, long enough to be told apart."""
    parts = [Path(path).resolve().parts for path in directories]
    for size in itertools.count(1):
        names = ["/".join(p[-size:]) for p in parts]
        if len(set(names)) == len(names) or size > max(map(len, parts)):
            return names
    raise AssertionError
