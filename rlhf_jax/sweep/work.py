"""Pieces of work for the workers, and what each has to wait for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.sweep.jobs import Job
from rlhf_jax.sweep.plan import Chunk, Group, sft_key, stage_key
from rlhf_jax.sweep.record import GroupRecord

# Functions of the workers, by name: this process must not import jax with them.
TRAIN_STAGES = "rlhf_jax.sweep.stages:train_stages"
RUN_SOLO = "rlhf_jax.sweep.solo:run_solo"
RUN_CHUNK = "rlhf_jax.sweep.chunk:run_chunk"
COMPILE_EARLY = "rlhf_jax.sweep.warm:compile_early"


@dataclasses.dataclass(eq=False)
class Work:
    """A piece of work: a stage, or a chunk of a group."""

    function: str
    arguments: tuple[Any, ...]
    jobs: tuple[Job, ...]  # that fail with it
    stage: str | None = None  # key of the stage it trains
    group: GroupRecord | None = None
    needs: frozenset[str] = frozenset()  # keys of stages that must be there before
    watched: Path | None = None

    @property
    def is_early(self) -> bool:
        """Whether it only prepares what other work will need."""
        return not self.jobs


def stage_works(jobs: Sequence[Job], root: Path) -> list[Work]:
    """Each pair of stages that jobs need, once; a supervised model is never trained by two."""
    works: dict[str, Work] = {}
    first_with: dict[str, str] = {}
    for job in jobs:
        key, sft = stage_key(job.config), sft_key(job.config)
        if key in works:
            works[key].jobs += (job,)
            continue
        earlier = first_with.setdefault(sft, key)
        folder = root / "stages" / key
        works[key] = Work(
            function=TRAIN_STAGES,
            arguments=(job, folder),
            jobs=(job,),
            stage=key,
            needs=frozenset() if earlier == key else frozenset({earlier}),
            watched=folder / "metrics.jsonl",
        )
    return list(works.values())


def chunk_work(group: Group, chunk: Chunk, record: GroupRecord, root: Path, workers: int) -> Work:
    """A chunk of lanes, or a single job, as a piece of work."""
    pieces: dict[str, Any] = {
        "jobs": chunk.jobs,
        "group": record,
        "needs": frozenset(chunk.stages),
    }
    if group.strategy == "solo":
        (job,) = chunk.jobs
        watched = job.path / "metrics.jsonl"
        return Work(RUN_SOLO, (chunk.jobs, root), watched=watched, **pieces)
    layout = (group.strategy, group.lanes, group.shared)
    arguments = (chunk.jobs, layout, root, workers)
    return Work(RUN_CHUNK, arguments, **pieces)
