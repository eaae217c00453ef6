"""In a worker: a job that has no lanes, as the run of its own that it would be without a sweep."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from rlhf_jax.io.run_dir import config_hash, run_facts, write_json
from rlhf_jax.sweep.jobs import DIVERGED, Job, JobEnd, objective_of
from rlhf_jax.sweep.stages import cache_of
from rlhf_jax.sweep.workers import Tell, one_line
from rlhf_jax.train.health import Diverged
from rlhf_jax.train.run import run_recorded


def run_solo(tell: Tell, jobs: Sequence[Job], root: Path) -> None:
    """Runs one job, from its newest checkpoint if it has one; tells its `end`."""
    (job,) = jobs
    start = time.monotonic()
    (job.path / "error.json").unlink(missing_ok=True)
    begun = (job.path / "metrics.jsonl").exists()
    config = dataclasses.replace(job.config, resume=str(job.path) if begun else None)
    try:
        summary, _ = run_recorded(config, job.path, start, cache_of(config, root / "stages"))
        objective = objective_of(summary, config.sweep.objective)
        end = JobEnd(job.number, summary["status"], summary["error"], objective)
    except Diverged as error:
        write_diverged(job, time.monotonic() - start, one_line(error))
        end = JobEnd(job.number, DIVERGED, one_line(error), None)
    tell("end", end)


def write_diverged(job: Job, seconds: float, line: str) -> None:
    """summary.json of a run that was stopped because nothing was finite any more."""
    config = job.config
    summary = {
        "task": config.task.name,
        "algo": config.algo.name,
        "seed": config.seed,
        "before": {},
        "after": {},
        "stages": {},
        "status": DIVERGED,
        "error": line,
        "seconds": seconds,
        "config_hash": config_hash(dataclasses.asdict(config)),
    }
    write_json(job.path / "summary.json", summary | run_facts())
