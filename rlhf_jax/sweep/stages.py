"""In a worker: what runs share, trained once for all of them, and where it is kept."""

from __future__ import annotations

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

from rlhf_jax.checks import check_task
from rlhf_jax.config import RLHFConfig, TaskConfig
from rlhf_jax.io.run_dir import RunDir
from rlhf_jax.io.sinks import jsonl_sink
from rlhf_jax.io.stage_cache import StageCache
from rlhf_jax.sweep.jobs import Job
from rlhf_jax.sweep.workers import Tell
from rlhf_jax.tasks import make_task
from rlhf_jax.tasks.protocol import Task
from rlhf_jax.train.loop import Session
from rlhf_jax.train.pipeline import make_pipeline, trained_models

TASKS: dict[str, Task] = {}  # of this worker; a task's data may take seconds to make


def train_stages(tell: Tell, job: Job, folder: Path) -> None:
    """Trains the supervised and the reward model of a job into the stage cache.

    Args:
      folder: their run directory, which goes on where an interrupted sweep left it.
    """
    config, task = job.config, task_of(job.config.task)
    check_task(config, task)
    cache = cache_of(config, folder.parent)
    if config.run.cache and folder.parent in cache.root.parents:
        line = f"the cache of stages cannot be written; this sweep keeps them in {cache.root}"
        tell("note", line)
    for line in task.notes:
        tell("note", line)
    run_dir = RunDir(folder).create()
    session = Session(run_dir=run_dir, run=quiet(config), sink=jsonl_sink(run_dir.metrics))
    trained_models(make_pipeline(config, task, session, None, cache))


def cache_of(config: RLHFConfig, stages: Path) -> StageCache:
    """The cache of the settings; without one that can be written, one of this sweep alone."""
    cache = StageCache(config.run.cache_dir)
    return cache if config.run.cache and writable(cache.root) else StageCache(stages / "cache")


@functools.cache
def writable(folder: Path) -> bool:
    """Whether files can be made in a folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def task_of(config: TaskConfig) -> Task:
    """The task of a config, made once a worker."""
    key = repr(config)
    if key not in TASKS:
        TASKS[key] = make_task(config)
    return TASKS[key]


def quiet(config: RLHFConfig) -> Any:
    """Settings of a run that shows no progress of its own."""
    return dataclasses.replace(config.run, progress=False)
