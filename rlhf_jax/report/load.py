"""Reads what a run left on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax.io.jsonl import read_rows

Columns = dict[str, np.ndarray]


def load_metrics(path: str | os.PathLike[str]) -> dict[str, Columns]:
    """Reads `metrics.jsonl` into one table a stage.

    Args:
      path: the file; lines a killed run left half written are skipped.

    Returns:
      Stage to column name to float64 array, one entry a row; null or absent is nan.

    Raises:
      FileNotFoundError: no such file.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"{os.fspath(path)}: no such file")
    stages: dict[str, list[dict[str, Any]]] = {}
    for row in read_rows(Path(path)):
        stages.setdefault(str(row.pop("stage", "run")), []).append(row)
    return {stage: columns(rows) for stage, rows in stages.items()}


def load_summary(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads `summary.json`; empty when the run has not ended."""
    path = Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def columns(rows: list[dict[str, Any]]) -> Columns:
    """Turns rows into columns; what is not a number is nan, a column without numbers goes.

    >>> columns([{"a": 1, "b": None, "c": "x"}, {"a": 2, "b": 3.5}])
    {'a': array([1., 2.]), 'b': array([nan, 3.5])}
    """
    names = dict.fromkeys(name for row in rows for name in row)
    table = {name: np.array([_number(row.get(name)) for row in rows]) for name in names}
    return {name: column for name, column in table.items() if not np.isnan(column).all()}


def facts_of(summary: Mapping[str, Any]) -> dict[str, float]:
    """The known numbers of the task and the KL target, those that are given.

    >>> facts_of({"facts": {"entropy_per_token": 1.5}, "kl_target": None})
    {'entropy_per_token': 1.5}
    """
    facts = {**(summary.get("facts") or {}), "kl_target": summary.get("kl_target")}
    return {name: value for name, value in facts.items() if not np.isnan(_number(value))}


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
