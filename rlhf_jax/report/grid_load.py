"""A gridworld run as read from disk: its map, its curves, and what was learnt along the way."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlhf_jax.config import UserError


@dataclass(frozen=True, eq=False)
class Frame:
    """Policy and values at one moment, and what they truly are."""

    steps: int  # of the environment, so far
    policy: np.ndarray  # [S, 4]
    learnt: np.ndarray  # [S], the value network
    true: np.ndarray  # [S], exact V of the policy


@dataclass(frozen=True, eq=False)
class GridRun:
    """One seed of a run."""

    rows: tuple[str, ...]  # the map
    cells: np.ndarray  # [N, 2]
    frames: list[Frame]
    best_policy: np.ndarray  # [S, 4], one-hot
    best: np.ndarray  # [S], V*
    start_value: float  # V* at the start


def write_frames(path: Path, run: GridRun) -> None:
    """The run as JSON, so that the pictures can be drawn again."""
    data = {
        "rows": run.rows,
        "cells": run.cells.tolist(),
        "best_policy": run.best_policy.tolist(),
        "best": run.best.tolist(),
        "start_value": run.start_value,
        "frames": [
            {
                "steps": f.steps,
                "policy": f.policy.tolist(),
                "learnt": f.learnt.tolist(),
                "true": f.true.tolist(),
            }
            for f in run.frames
        ],
    }
    path.write_text(json.dumps(data), encoding="utf-8")


def read_frames(path: Path) -> GridRun:
    """The run `write_frames` wrote.

    Raises:
      UserError: there is none.
    """
    if not path.is_file():
        raise UserError(f"{path}: no frames here; they are of gridworld runs")
    data = json.loads(path.read_text(encoding="utf-8"))
    frames = [
        Frame(f["steps"], *(np.array(f[k]) for k in ("policy", "learnt", "true")))
        for f in data["frames"]
    ]
    return GridRun(
        rows=tuple(data["rows"]),
        cells=np.array(data["cells"]),
        frames=frames,
        best_policy=np.array(data["best_policy"]),
        best=np.array(data["best"]),
        start_value=data["start_value"],
    )
