"""Which settings of a sweep are its factors, and which were searched over or only follow others."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from rlhf_jax.report.names import algorithm
from rlhf_jax.report.sweep_jobs import Job, differs, varied

SEEDS = ("seed", "stage_seed", "task.data_seed")  # what makes a run a repetition of another
INSTANCE = "task.instance"  # instances are strata: a seed belongs to its instance
MOST_VALUES = 10  # a number with more has been searched over, unless all were run over seeds
SPARSE = 20  # combinations for each run: with more it is a search too


@dataclass(frozen=True)
class Factor:
    """A setting that was varied, and its values in order."""

    key: str
    values: tuple[Any, ...]

    @property
    def name(self) -> str:
        """The last word of the key."""
        return self.key.rpartition(".")[2]

    @property
    def numeric(self) -> bool:
        """Whether all values are numbers."""
        return all(isinstance(v, int | float) and not isinstance(v, bool) for v in self.values)

    def label(self, value: Any) -> str:
        """A value as it is called in print."""
        return algorithm(value) if self.key == "algo" else shown(value)


def shown(value: Any) -> str:
    """A setting as text.

    >>> shown(0.1), shown(None), shown(True), shown("shared")
    ('0.1', 'null', 'true', 'shared')
    """
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def split_settings(
    jobs: Sequence[Job], runs: pd.DataFrame
) -> tuple[list[str], list[str], dict[str, str]]:
    """Keys searched over, keys that are factors, and keys that follow one of them.

    Settings are a search if a sampler chose them, and also if a number took very many values or
    if too few combinations were tried; but not if all of them were, each with several seeds.
    """
    keys = [k for k in varied(jobs) if k not in (*SEEDS, INSTANCE) and differs(jobs, k)]
    chosen, follow = _leaders(runs, keys)
    if chosen and not _complete(runs, chosen):
        wide = any(_wide(k, list(runs[k])) for k in chosen)
        if wide or any(job.suggested for job in jobs):
            return _typed(jobs, keys), [], {}
    if _shared(runs, chosen):
        chosen.append("sweep")
    if sparse(runs, chosen):
        return _typed(jobs, keys), [], {}
    return [], chosen, follow


def _leaders(runs: pd.DataFrame, keys: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Keys that move by themselves, and the others, each with what it moves with."""
    chosen: list[str] = []
    follow: dict[str, str] = {}
    for key in keys:
        leader = next((k for k in chosen if _follows(runs, key, [k])), None)
        if leader is None and chosen and _follows(runs, key, chosen):
            leader = " and ".join(chosen)
        if leader is None and _of_seeds(runs, key):
            leader = "seed"
        if leader:
            follow[key] = leader
        else:
            chosen.append(key)
    return chosen, follow


def _of_seeds(runs: pd.DataFrame, key: str) -> bool:
    """Whether each seed has its own value; with fewer values they are arms of different seeds."""
    return _follows(runs, key, ["unit"]) and _count(runs, key) == _count(runs, "unit")


def _complete(runs: pd.DataFrame, chosen: Sequence[str]) -> bool:
    """Whether all combinations were run, each once with each of several seeds."""
    cells = math.prod(_count(runs, key) for key in (*chosen, "unit"))
    tried = len(runs.drop_duplicates([*chosen, "unit"]))
    return cells == tried and _count(runs, "unit") > 1


def _shared(runs: pd.DataFrame, chosen: Sequence[str]) -> bool:
    """Whether two sweeps ran the same settings, so that they are compared."""
    if not chosen:
        return _count(runs, "sweep") > 1
    return bool((runs.groupby(list(chosen), dropna=False)["sweep"].nunique() > 1).any())


def sparse(runs: pd.DataFrame, chosen: Sequence[str]) -> bool:
    """Whether settings were tried twice with a seed, or too few of all to find pairs."""
    cells = math.prod(_count(runs, key) for key in (*chosen, "unit"))
    return bool(runs.duplicated([*chosen, "unit"]).any() or cells > SPARSE * len(runs))


def _count(runs: pd.DataFrame, key: str) -> int:
    """How many values there are."""
    return len(set(runs[key]))


def _typed(jobs: Sequence[Job], keys: Sequence[str]) -> list[str]:
    """Those that somebody or a sampler set, not those computed from them."""
    return [k for k in keys if any(k in job.typed for job in jobs)] or list(keys)


def _wide(key: str, column: list[Any]) -> bool:
    """Whether a number took more values than can be arms."""
    found = factor_of(key, column)
    return found.numeric and len(found.values) > MOST_VALUES


def _follows(runs: pd.DataFrame, key: str, others: Sequence[str]) -> bool:
    """Whether the others' values tell this one's."""
    return bool((runs.groupby(list(others), dropna=False)[key].nunique(dropna=False) == 1).all())


def factor_of(key: str, column: list[Any]) -> Factor:
    """Numbers rise; names keep the order in which they ran."""
    values = list(dict.fromkeys(column))
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    others = [v for v in values if v not in numbers or isinstance(v, bool)]
    return Factor(key, (*others, *sorted(numbers)))
