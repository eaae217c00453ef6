"""The jobs of a sweep from their settings to their records: what the launcher calls."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_jax.config import RLHFConfig
from rlhf_jax.io.run_dir import write_json

FINISHED, DIVERGED, FAILED = "finished", "diverged", "failed"


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    number: int  # Hydra's
    path: Path  # its directory, which may hold .hydra/ already
    config: RLHFConfig
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class JobEnd:
    """How a job ended; what it found is in its directory."""

    number: int
    status: str  # FINISHED, DIVERGED or FAILED
    error: str | None  # one line
    objective: float | None  # `sweep.objective` after training, None if it is not there


def run_jobs(jobs: Sequence[Job], root: Path) -> list[JobEnd]:
    """Runs jobs as lanes of few programs and returns how each ended, in the order of `jobs`.

    All jobs have the same `sweep` and `run` settings. On a CPU this process never imports jax:
    worker processes do.

    Args:
      root: the sweep's directory: sweep.json, stages/ and logs/ are written there.

    Raises:
      KeyboardInterrupt: the user stopped the sweep; finished jobs stay on disk.
    """
    from rlhf_jax.sweep.engine import Engine

    if not jobs:
        return []
    return Engine(jobs, root).run()


def objective_of(summary: dict[str, Any], name: str) -> float | None:
    """A number of summary.json after training.

    >>> objective_of({"after": {"gold/score": 1.5}}, "gold/score")
    1.5
    """
    found = summary.get("after", {}).get(name)
    return float(found) if isinstance(found, int | float) else None


def write_error(path: Path, line: str, trace: str = "") -> None:
    """error.json of a failed job, in the place of summary.json."""
    with suppress(OSError):  # where nothing can be written, that is the error
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "error.json", {"status": FAILED, "error": line, "trace": trace})
