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
    split_settings,
)
from rlhf_jax.report.sweep_jobs import HYDRA, Job, differs, load_sweep, untouched, varied
from rlhf_jax.report.sweep_outcome import choose


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
    typed: Mapping[str, Any]  # for all runs alike
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

    @functools.cached_property
    def ended(self) -> np.ndarray:
        """Which runs have a score, if only that of a run that diverged."""
        return np.array([job.ended for job in self.jobs])

    @functools.cached_property
    def seeds(self) -> int:
        """How many seeds have ended in the combination of settings that has most.

        Of a combination with several instances it is the fewest of an instance.
        """
        return self._most(self.ended)

    @functools.cached_property
    def planned(self) -> int:
        """As `seeds`, whether they have ended or not."""
        return self._most(np.ones_like(self.ended))

    def _most(self, counted: np.ndarray) -> int:
        there = ~np.isnan(self.tensor(np.where(counted, 1.0, np.nan)))
        there = there.reshape(len(self.units), -1)
        parts = [there[self.blocks == block].sum(axis=0) for block in np.unique(self.blocks)]
        ran = [np.where(part > 0, part, len(self.units)) for part in parts]
        return int((np.min(ran, axis=0) * (np.max(parts, axis=0) > 0)).max())

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
        """Curves of the stage that improves the policy, of the runs that have ended."""
        ended = np.flatnonzero(self.ended)
        mine = ~self.curves["stage"].isin(SUPERVISED) & self.curves["run"].isin(ended.tolist())
        return self.curves.loc[mine]

    def scores(self, column: str, lost: float = np.nan) -> np.ndarray:
        """A column of `runs`, with `lost` for those that diverged and nan for those that failed.

        What was measured before training stays as it is.
        """
        empty = pd.Series(np.nan, index=self.runs.index)
        found = np.array(self.runs.get(column, empty), dtype=float)
        if not column.startswith("before/"):
            found[(self.runs.status == "diverged").to_numpy()] = lost
        return found


def read_study(directories: Sequence[Path]) -> Study:
    """Reads sweeps, and writes `results.csv` and `curves.parquet` of each.

    Raises:
      FileNotFoundError: see `read_jobs`.
      ValueError: so, too; or a directory is given twice.
    """
    resolved = [Path(path).resolve() for path in directories]
    if twice := [d for d, r in zip(directories, resolved) if resolved.count(r) > 1]:
        raise ValueError(f"{twice[-1]}: given twice")
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
    factors = tuple(factor_of(key, list(runs[key])) for key in chosen)
    moving = {key for key in varied(jobs) if differs(jobs, key)}
    held = {k: v for k, v in jobs[0].config.items() if k not in moving and not untouched(k)}
    if searched or runs.duplicated([*chosen, "unit"]).any():
        runs["unit"] = [f"run {i}" for i in runs.index]  # each is a unit of its own
    return Study(
        directories=tuple(directories),
        runs=runs,
        curves=_with_rows(curves, runs),
        jobs=tuple(jobs),
        factors=factors,
        searched=tuple(factor_of(key, list(runs[key])) for key in searched),
        follow=follow,
        typed={k: jobs[0].setting(k) for k in jobs[0].typed if _alike(jobs, k)},
        held=held,
        records=tuple(load_sweep(path) for path in directories),
    )


def outcome(study: Study, metric: str | None = None) -> str:
    """The column of `results.csv` that is reported; see `choose`."""
    return choose(study.jobs, study.runs, metric)


def _alike(jobs: Sequence[Job], key: str) -> bool:
    """Whether a setting that counts was typed with one value, for all jobs."""
    mine = all(key in job.typed for job in jobs) and not key.startswith(HYDRA)
    return mine and not untouched(key) and not differs(jobs, key)


def _with_rows(curves: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Curves that name the row of their run in `run`."""
    places = runs.loc[:, ["sweep", "job"]].assign(run=range(len(runs)))
    return curves.merge(places, on=["sweep", "job"])


def _unit(job: Job, keys: Sequence[str]) -> str:
    """What a run shares with those it is paired with: its seeds, and the instance."""
    return ", ".join(f"{k.rpartition('.')[2]} {job.setting(k)}" for k in keys)


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
