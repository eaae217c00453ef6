"""From the directories of a sweep's jobs to two tables: `results.csv` and `curves.parquet`.

A number that is not finite is left empty, never written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rlhf_jax.io.atomic import replacing
from rlhf_jax.report.load import load_metrics
from rlhf_jax.report.sweep_jobs import Job, read_jobs, varied

SUPERVISED = ("sft", "reward_model")


def results(jobs: Sequence[Job], curves: pd.DataFrame) -> pd.DataFrame:
    """One row a job: what it is, what became of it, its settings and its final numbers.

    Args:
      jobs: as from `read_jobs`.
      curves: as from `read_curves`; the last `exact/...` of each job are taken from it.

    Returns:
      `job`, `status`, `error`, `group`, the keys of `varied`, `before/...`, `after/...`,
      `exact/...`, `seconds`, `config_hash`.
    """
    keys = varied(jobs)
    last = _last_exact(curves)
    rows = []
    for job in jobs:
        row = {"job": job.number, "status": job.status, "error": job.error, "group": job.group}
        row |= {key: _cell(job.setting(key)) for key in keys}
        row |= _finals(job) | (last.get(job.number, {}) if job.status == "finished" else {})
        row |= {"seconds": _number(job.summary.get("seconds"))}
        rows.append(row | {"config_hash": job.summary.get("config_hash")})
    table = pd.DataFrame(rows).astype({"group": "Int64"})
    front = [c for c in table if not str(c).startswith(("before/", "after/", "exact/"))]
    front = front[: front.index("seconds")]
    measured = sorted((c for c in table if c not in front), key=_order)
    return table.loc[:, [*front, *measured]]


def read_curves(jobs: Sequence[Job]) -> pd.DataFrame:
    """Every finite number the jobs logged: job, stage, update, episode, metric, value."""
    parts = []
    for job in jobs:
        if (job.path / "metrics.jsonl").exists():
            for stage, table in load_metrics(job.path / "metrics.jsonl").items():
                parts.append(_long(job.number, stage, table))
    if not parts:
        empty = {"job": int, "stage": str, "update": float, "episode": float}
        empty |= {"metric": str, "value": float}
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in empty.items()})
    return pd.concat(parts, ignore_index=True)


def write_results(
    directory: str | os.PathLike[str],
) -> tuple[list[Job], pd.DataFrame, pd.DataFrame]:
    """Writes `results.csv` and `curves.parquet` into a sweep's directory.

    Returns:
      The jobs, and both tables.

    Raises:
      FileNotFoundError, ValueError: see `read_jobs`.
    """
    jobs = read_jobs(directory)
    curves = read_curves(jobs)
    table = results(jobs, curves)
    with replacing(Path(directory) / "results.csv") as path:
        table.to_csv(path, index=False)
    with replacing(Path(directory) / "curves.parquet") as path:
        slim = curves.astype({"stage": "category", "metric": "category"})
        slim.to_parquet(path, index=False, engine="pyarrow")
    return jobs, table, curves


def _finals(job: Job) -> dict[str, float]:
    """The finite numbers of `summary.json`; none after training for a run that diverged."""
    sides = ("before",) if job.status == "diverged" else ("before", "after")
    parts = {side: job.summary.get(side) or {} for side in sides}
    named = {f"{side}/{k}": _number(v) for side, part in parts.items() for k, v in part.items()}
    return {name: value for name, value in named.items() if np.isfinite(value)}


def _last_exact(curves: pd.DataFrame) -> dict[Any, dict[str, float]]:
    tuned = ~curves["stage"].isin(SUPERVISED)
    exact = curves.loc[tuned & curves["metric"].str.startswith("exact/")]
    found: dict[Any, dict[str, float]] = {}
    for job, metric, value in zip(exact["job"], exact["metric"], exact["value"]):
        found.setdefault(job, {})[metric] = float(value)  # the last stays
    return found


def _long(number: int, stage: str, table: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """A stage's columns under each other, without what is not finite."""
    size = len(next(iter(table.values()), ()))
    update = table.get("update", np.arange(size, dtype=float))
    episode = table.get("episode", np.full(size, np.nan))
    names = [name for name in table if name not in ("update", "episode", "seconds")]
    values = np.concatenate([table[name] for name in names]) if names else np.empty(0)
    columns = {
        "job": number,
        "stage": stage,
        "update": np.tile(update, len(names)),
        "episode": np.tile(episode, len(names)),
        "metric": np.repeat(np.array(names, dtype=object), size),
        "value": values,
    }
    long = pd.DataFrame(columns)
    return long.loc[np.isfinite(values)]


def _order(name: Any) -> tuple[int, str]:
    fronts = ("before/", "after/", "exact/")
    place = next((i for i, f in enumerate(fronts) if str(name).startswith(f)), len(fronts))
    return place, "" if place == len(fronts) else str(name)


def _cell(value: Any) -> Any:
    """A setting as it stands in a table: lists and null as text."""
    if value is None:
        return "null"
    if isinstance(value, list | dict):
        return json.dumps(value)
    return value if not isinstance(value, float) or np.isfinite(value) else str(value)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
