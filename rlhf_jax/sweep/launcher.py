"""Hydra's launcher `lanes`: a batch of jobs is checked whole, then run as lanes.

A sweeper picks the points, a launcher decides how they run; so the basic sweeper's grid and a
batch of Optuna's suggestions both become lanes. What a job leaves behind is as with Hydra's own
launcher: `.hydra/`, a log, callbacks, return values in order.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from rlhf_jax.io.console import note, warn
from rlhf_jax.io.run_dir import RunDir, write_text
from rlhf_jax.sweep import jobs as engine
from rlhf_jax.sweep.compose import (
    Entry,
    Planned,
    Refused,
    is_search,
    plan_jobs,
    told,
    varied,
)
from rlhf_jax.sweep.jobs import DIVERGED, FAILED, FINISHED, Job, JobEnd, objective_of
from rlhf_jax.sweep.loader import Composer


class JobFailed(Exception):
    """A lane that failed; its error.json has the trace."""


class LanesLauncher(Launcher):
    """Runs the jobs of each `launch` as lanes of few programs on this machine."""

    config: DictConfig
    context: HydraContext
    entry: Entry

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keeps what Hydra hands over; the sweeper composes through the same `Composer`."""
        if not hasattr(task_function, "convert"):
            raise Refused("hydra/launcher=lanes: this program has no lanes; use basic")
        self.config, self.context = config, hydra_context
        self.entry = cast(Entry, task_function)
        self.entry.begin(Path(str(config.hydra.sweep.dir)))
        self.composer = Composer(hydra_context.config_loader)
        self.context.config_loader = cast("type[Composer]", self.composer)  # pyright: ignore

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Runs a batch; returns what Hydra's sweepers read, in the order of the jobs.

        Raises:
          Refused: a job cannot work; then none was begun.
          KeyboardInterrupt: after a clean stop.
        """
        setup_globals()
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        compose = lambda overrides: self.composer.job(self.config, overrides)
        planned = plan_jobs(compose, self.entry, job_overrides, initial_job_idx)
        warn_of_idle(self.entry, planned)
        root = Path(str(self.config.hydra.sweep.dir))
        if not (root / "multirun.yaml").exists():  # Optuna's sweeper writes none
            write_settings(root / "multirun.yaml", self.config)
        # A search was told that a job failed: with another answer it would choose other jobs.
        known = ended if is_search(self.config) else finished
        done = {job.number: end for job in planned if (end := known(job))}
        todo = [job for job in planned if job.number not in done]
        for job in todo:
            write_job(job)
        if done:
            note(f"{len(done)} of {len(planned)} jobs were finished before")
        if todo:
            self.entry.ran = True
            done |= {end.number: end for end in self.run([as_job(job) for job in todo], root)}
        self.tell(planned, done)
        returns = [self.hand_back(job, done[job.number]) for job in planned]
        configure_log(self.config.hydra.hydra_logging, self.config.hydra.verbose)
        return returns

    def run(self, jobs: Sequence[Job], root: Path) -> Sequence[JobEnd]:
        """Runs the jobs and waits for them."""
        return engine.run_jobs(jobs, root)

    def tell(self, planned: Sequence[Planned], ends: dict[int, JobEnd]) -> None:
        """Names the jobs that failed, and counts those that diverged."""
        shown = varied([job.overrides for job in planned])
        lines = [
            (ends[job.number].error or "failed", f"{job.path}{text}")
            for job, text in zip(planned, shown)
            if ends[job.number].status == FAILED
        ]
        self.entry.failed(told(lines, len(planned)))
        diverged = [job for job in planned if ends[job.number].status == DIVERGED]
        if diverged:
            first = diverged[0].path
            warn(f"{len(diverged)} of {len(planned)} jobs diverged; the first is {first}")

    def hand_back(self, job: Planned, end: JobEnd) -> JobReturn:
        """Hydra's own end of a job, with its log and callbacks.

        The callbacks see a failed job as failed; the sweeper sees a job without a value, so that
        it goes on.
        """

        def lane(_: DictConfig) -> float | None:
            if end.status == FAILED:
                raise JobFailed(end.error)
            return end.objective

        found = run_job(
            hydra_context=self.context,
            task_function=lane,
            config=job.settings,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        )
        if found.status == JobStatus.FAILED:
            found.status, found.return_value = JobStatus.COMPLETED, None
        return found


def warn_of_idle(entry: Entry, planned: Sequence[Planned]) -> None:
    """Settings that change nothing, each named once."""
    lines = [
        (line, f"job {job.number}")
        for job in planned
        for line in entry.hints(job.config, job.overrides)
    ]
    for line in told(lines, len(planned)):
        warn(line)


def as_job(job: Planned) -> Job:
    """What the engine needs to know of a job."""
    return Job(job.number, job.path, job.config, job.overrides)


def finished(job: Planned | Job) -> JobEnd | None:
    """How a job ended that was run before; None for one that has to be run."""
    summary = RunDir(job.path).summary
    if not summary.exists():
        return None
    found = json.loads(summary.read_text())
    objective = objective_of(found, job.config.sweep.objective)
    return JobEnd(job.number, found.get("status", FINISHED), found.get("error"), objective)


def ended(job: Planned | Job) -> JobEnd | None:
    """As `finished`, and of a job that failed, too."""
    path = job.path / "error.json"
    if (end := finished(job)) is not None or not path.exists():
        return end
    return JobEnd(job.number, FAILED, json.loads(path.read_text())["error"], None)


def write_job(job: Planned) -> None:
    """The directory of a job with its `.hydra/`, as Hydra writes it again at the job's end."""
    (job.path / "error.json").unlink(missing_ok=True)  # of an earlier try
    folder = job.path / str(job.settings.hydra.output_subdir or ".hydra")
    write_settings(folder / "config.yaml", job.task)
    write_settings(folder / "hydra.yaml", OmegaConf.masked_copy(job.settings, ["hydra"]))
    write_settings(folder / "overrides.yaml", job.settings.hydra.overrides.task)


def write_settings(path: Path, settings: object) -> None:
    """Settings as YAML, and the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, OmegaConf.to_yaml(settings))
