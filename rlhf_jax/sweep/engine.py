"""In the main process: hands out stages, chunks and single jobs, and hears what became of them."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.config import UserError
from rlhf_jax.machine import accelerator_likely, cores
from rlhf_jax.sweep.display import Display
from rlhf_jax.sweep.jobs import FAILED, Job, JobEnd, write_error
from rlhf_jax.sweep.plan import Group, make_plan
from rlhf_jax.sweep.record import GroupRecord, write_sweep
from rlhf_jax.sweep.work import COMPILE_EARLY, RUN_CHUNK, Work, chunk_work, stage_works
from rlhf_jax.sweep.workers import Message, Worker, Workers

TICK = 1.0  # seconds between looks at the clock
GIVEN_UP = 3  # workers that ended at their start, after which no more are started


class Engine:
    """One call of `run_jobs`."""

    def __init__(self, jobs: Sequence[Job], root: Path):
        self.jobs, self.root = list(jobs), Path(root)
        self.run_config, self.sweep = jobs[0].config.run, jobs[0].config.sweep
        self.ends: dict[int, JobEnd] = {}
        self.facts: dict[str, Any] = {}
        self.stages_done: set[str] = set()
        self.notes: set[str] = set()
        self.waiting: list[Work] = []
        self.groups: list[GroupRecord] = []
        self.refused: set[int] = set()  # groups whose program could not be compiled early
        self.deaths, self.count, self.start = 0, 1, time.monotonic()

    def run(self) -> list[JobEnd]:
        """Runs everything there is; what is finished stays on disk whatever happens."""
        accelerated = accelerator_likely(self.run_config)
        self.pool = self.workers(accelerated)
        try:
            self.facts = self.first_worker(accelerated)
            accelerator = self.facts["platform"] != "cpu"
            self.count = 1 if accelerator else self.sweep.workers or cores()
            plan = make_plan(self.jobs, accelerator=accelerator, workers=self.count)
            self.begin(plan, self.count)
            with self.display:
                self.loop()
        finally:
            self.pool.close()
            self.write()
        return [self.ends[job.number] for job in self.jobs]

    def workers(self, accelerated: bool) -> Workers:
        """No processes yet; on a CPU each will have one thread: lanes share no pool to starve."""
        run = self.run_config
        if not accelerated:
            run = dataclasses.replace(run, threads=run.threads or 1)
        return Workers(run, self.root / "logs")

    def first_worker(self, accelerated: bool) -> dict[str, Any]:
        """Starts a worker and learns from it what machine this is."""
        self.pool.start()
        facts = self.hello()
        if accelerated and facts["platform"] == "cpu":  # a driver, but no libraries for it
            self.pool.close()
            self.pool = self.workers(False)
            self.pool.start()
            facts = self.hello()
        return facts

    def hello(self) -> dict[str, Any]:
        """The facts of the first worker."""
        while self.pool.all:
            for message in self.pool.messages(TICK):
                if message.kind == "hello":
                    return message.content
                self.hear(message)
            self.end_stalled()
        raise UserError(self.given_up())

    def begin(self, plan: Sequence[Group], workers: int) -> None:
        """What is to be done, and the display of it."""
        self.groups = [GroupRecord.of(group, plan, workers) for group in plan]
        self.waiting = stage_works(self.jobs, self.root)
        for group, record in zip(plan, self.groups):
            self.waiting += [
                chunk_work(group, chunk, record, self.root, workers) for chunk in group.chunks
            ]
        runs = f"{len(self.jobs)} runs in {len(plan)} groups ({strategies(plan)})"
        self.show(f"sweep: {runs}, {workers} workers")

    def show(self, title: str = "") -> None:
        """Opens the display of what is waiting."""
        updates = sum(job.config.algo.updates for job in self.jobs)
        stages = sum(work.stage is not None for work in self.waiting)
        enabled = self.run_config.progress
        self.display = Display(stages=stages, updates=updates, enabled=enabled)
        if enabled:
            self.display.say(title)
            self.display.advance("stages", 0)

    def loop(self) -> None:
        """Gives every free worker something to do until nothing is left."""
        while self.waiting or any(worker.work for worker in self.pool.all):
            wanted = min(self.count, len(self.waiting)) if self.deaths < GIVEN_UP else 0
            while len(self.pool.all) < wanted:
                self.pool.start()  # they come up while the first one works; the dead are replaced
            if not self.pool.all:
                raise UserError(self.given_up())
            self.hand_out()
            for message in self.pool.messages(TICK):
                self.hear(message)
            self.end_stalled()

    def end_stalled(self) -> None:
        """Ends workers that give no sign of life."""
        for worker in list(self.pool.all):
            if worker.stalled(self.run_config.stall_seconds):
                seconds = self.run_config.stall_seconds
                self.lost(worker, f"no sign of life for {seconds:.0f} s (run.stall_seconds)")
                self.pool.end(worker)

    def hand_out(self) -> None:
        """The next piece of work to every worker that has none."""
        for worker in self.pool.all:
            if worker.ready and worker.work is None:
                work = self.next_work(worker) or self.early_work(worker)
                if work is not None:
                    self.hand(worker, work)

    def hand(self, worker: Worker, work: Work) -> None:
        """A piece of work to a worker; it stays where it is if the worker has just died."""
        try:
            self.pool.give(worker, work.function, *work.arguments)
        except OSError:  # `messages` will tell of it
            return
        if not work.is_early:
            self.waiting.remove(work)
        worker.work, worker.watched = work, work.watched
        if work.group is not None:
            worker.groups.add(work.group.id)
            work.group.begin(worker.number, early=work.is_early)

    def next_work(self, worker: Worker) -> Work | None:
        """Stages first; then the group whose program the worker has; then one nobody is on."""
        ready = [work for work in self.waiting if work.needs <= self.stages_done]
        if not ready:
            return None
        held = {number for other in self.pool.all for number in other.groups}

        def rank(work: Work) -> tuple[bool, bool, bool]:
            group = None if work.group is None else work.group.id
            return work.stage is None, group not in worker.groups, group in held

        return min(ready, key=rank)

    def early_work(self, worker: Worker) -> Work | None:
        """The program of a group that waits for its stages, compiled while they are trained."""
        done = worker.groups | self.refused
        for work in self.waiting:
            if work.group and work.function == RUN_CHUNK and work.group.id not in done:
                return Work(COMPILE_EARLY, work.arguments, (), group=work.group)
        return None

    def hear(self, message: Message) -> None:
        """What a worker says."""
        worker, kind, content = message
        work: Work | None = worker.work
        if kind == "died":
            self.lost(worker, f"its worker process ended ({exit_text(content)})")
        elif kind == "refused":
            raise UserError(content)
        elif kind == "note":
            if content not in self.notes:
                self.notes.add(content)
                self.display.say(content)
        elif kind == "compiled" and work and work.group:
            work.group.compiled(content)
        elif kind == "updates":
            count, rewards = content
            self.display.advance("updates", count * len(rewards))
            self.display.tell({}, rewards)
        elif kind == "end":
            self.end(content)
        elif kind in ("done", "failed") and work:
            worker.work = worker.watched = None
            if kind == "failed":
                self.fail(work, *content)
            self.complete(work, content if kind == "done" else {})

    def complete(self, work: Work, content: dict[str, Any]) -> None:
        """A piece of work is over."""
        if work.stage is not None:
            self.stages_done.add(work.stage)
            self.display.advance("stages", 1)
        if work.group is not None:
            work.group.end(content.get("peak_memory_bytes", 0))
            if work.group.strategy == "solo":  # lanes tell of their updates as they go
                self.display.advance("updates", work.jobs[0].config.algo.updates)
            left = {w.group for w in self.waiting} | {w.work.group for w in self.pool.all if w.work}
            over = sum(group not in left for group in self.groups)
            self.display.tell({"groups done": over} if over else {}, {})

    def end(self, end: JobEnd) -> None:
        """A job is over."""
        self.ends[end.number] = end
        job = next(job for job in self.jobs if job.number == end.number)
        if end.error is not None:
            self.display.say(
                f"run {end.number} ({' '.join(job.overrides)}) {end.status}: {end.error}"
            )
        lost = [e for e in self.ends.values() if e.status != "finished"]
        counts = {"runs done": len(self.ends)} | ({"lost": len(lost)} if lost else {})
        rewards = {} if end.objective is None else {end.number: end.objective}
        if end.status != "finished":
            self.display.rewards.pop(end.number, None)
        self.display.tell(counts, rewards)

    def fail(self, work: Work, line: str, trace: str = "", whole: bool = True) -> None:
        """The jobs of a piece of work fail, and those that would fail for the same reason."""
        if work.is_early and work.group is not None:  # if it must, it will fail in earnest
            self.refused.add(work.group.id)
            return
        doomed = list(work.jobs)
        if work.group is not None:
            work.group.error = line
            if whole and work.group.strategy != "solo":
                rest = [other for other in self.waiting if other.group is work.group]
                doomed += [job for other in rest for job in other.jobs]
                self.waiting = [other for other in self.waiting if other not in rest]
        for job in doomed:
            if job.number not in self.ends:
                write_error(job.path, line, trace)
                self.end(JobEnd(job.number, FAILED, line, None))
        self.prune()

    def prune(self) -> None:
        """Takes jobs that have ended out of what is still to be done."""
        for work in list(self.waiting):
            if work.group is not None:
                left = tuple(job for job in work.jobs if job.number not in self.ends)
                if not left:
                    self.waiting.remove(work)
                elif left != work.jobs:
                    work.jobs = left
                    work.arguments = (left, *work.arguments[1:])

    def lost(self, worker: Worker, line: str) -> None:
        """A worker is gone, and what it was at with it."""
        work, worker.work = worker.work, None
        self.deaths += not worker.ready
        if work is not None:
            self.fail(work, f"{line}; see {self.pool.logs}/worker_{worker.number}.log", whole=False)
            self.complete(work, {})

    def given_up(self) -> str:
        """What is said when no worker comes up."""
        return f"workers end at their start; see {self.pool.logs}"

    def write(self) -> None:
        """sweep.json, whatever has happened."""
        if self.facts:
            seconds = time.monotonic() - self.start
            write_sweep(self.root, self.groups, self.facts, seconds)


def strategies(plan: Sequence[Group]) -> str:
    """Such as "map of 4 lanes, solo"."""
    named = [g.strategy if g.strategy == "solo" else f"{g.strategy} of {g.lanes}" for g in plan]
    return ", ".join(dict.fromkeys(named))


def exit_text(code: int | None) -> str:
    """How a process ended.

    >>> exit_text(-9), exit_text(1)
    ('signal 9, perhaps out of memory', 'exit status 1')
    """
    if code == -9:
        return "signal 9, perhaps out of memory"
    return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"
