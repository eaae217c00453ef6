"""The whole card: cells in worker processes, one a core, and what they add up to."""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import os
import shlex
import signal
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_jax import runtime
from rlhf_jax.config import CardConfig, RLHFConfig, RunConfig, UserError
from rlhf_jax.io.card_table import print_card
from rlhf_jax.io.comparison import print_run_dir
from rlhf_jax.io.console import note, stage_progress, warn
from rlhf_jax.io.jsonl import read_rows
from rlhf_jax.io.run_dir import config_hash, run_facts, write_json, write_text
from rlhf_jax.io.sinks import jsonl_sink
from rlhf_jax.io.watchdog import Watchdog
from rlhf_jax.lab.gates import judge
from rlhf_jax.machine import cores
from rlhf_jax.report.card import load_card, markdown, table, write_page

CALIBRATION = "calibration"
# Large pages: walks of a prefix tree touch so much new memory that faults take a third of them.
LARGE_PAGES = ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")  # read when a process starts


@dataclass(frozen=True, kw_only=True)
class Job:
    """One cell of the card, or the calibration rows of a task."""

    task: str
    algo: str  # as it is asked for, or CALIBRATION
    config: RLHFConfig

    @property
    def name(self) -> str:
        """As people call it."""
        return f"{self.task}/{self.algo}"

    @property
    def updates(self) -> int:
        """How long it is; the calibration trains nothing."""
        return 0 if self.algo == CALIBRATION else self.config.algo.updates

    def key(self, config: CardConfig) -> str:
        """Under which its rows are kept: everything they depend on, but for the code."""
        seeds = [config.first_seed, config.seeds, config.first_instance, config.instances]
        settings = {
            "seeds": seeds,
            "beta": config.beta,
            "budgets": config.budgets(self.task, self.algo),
        }
        return config_hash(settings | {"name": self.name, "cell": dataclasses.asdict(self.config)})


def run_card(config: CardConfig, jobs: Sequence[Job], path: Path) -> bool:
    """Runs what is missing of the jobs, writes the card, and says whether all is well.

    That is: every cell was run, and every gate passed.
    """
    path.mkdir(parents=True, exist_ok=True)
    found_before = earlier(path)
    spent = max((row.get("clock", 0.0) for row in found_before.values()), default=0.0)
    start = time.monotonic() - spent
    known = {j.name: found_before[j.key(config)] for j in jobs if j.key(config) in found_before}
    missing = [job for job in jobs if job.name not in known]
    if found_before:
        note(f"{len(known)} of {len(jobs)} cells were run before with these settings")
    errors: dict[str, str] = {}
    with stage_progress("cells", len(jobs), enabled=config.progress) as bar:
        for done, (job, found, error) in enumerate(results(config, missing), start=len(known) + 1):
            bar.update(done)
            if error is not None:
                errors[job.name] = error
                warn(f"{job.name} failed: {error}")
                continue
            known[job.name] = found
            row = {"key": job.key(config), "name": job.name, **found}
            append(path, row | {"clock": time.monotonic() - start})
    if not known:
        raise UserError(f"no cell of the card could be run: {next(iter(errors.values()), '')}")
    seconds = time.monotonic() - start
    write_json(path / "card.json", card_of(config, jobs, known, errors, seconds))
    return show(path) and not errors


def show(path: Path) -> bool:
    """Prints the card of a directory, writes its pages, and says whether all gates passed."""
    card = load_card(path)
    lines = table(card)
    print_card(lines, card["gates"])
    write_text(path / "card.md", markdown(lines) + "\n")
    write_page(path)
    print_run_dir(path)
    return all(gate["passed"] for gate in card["gates"])


def results(
    config: CardConfig, jobs: Sequence[Job]
) -> Iterator[tuple[Job, dict[str, Any], str | None]]:
    """(job, what it found, error) as they come in."""
    if not jobs:
        return
    waiting = list(jobs)
    workers = [start_pool() for _ in range(min(config.workers or cores(), len(jobs)))]
    tasks: dict[int, str] = {}  # that a worker has built, and compiled programs for
    running: dict[Future, tuple[int, Job]] = {}
    try:
        while waiting or running:
            for number in set(range(len(workers))) - {number for number, _ in running.values()}:
                if waiting:
                    job = next_job(waiting, tasks.get(number), tasks.values())
                    waiting.remove(job)
                    tasks[number] = job.task
                    running[workers[number].submit(run_job, config, job)] = (number, job)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number, job = running.pop(future)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):  # its process is gone
                    workers[number] = start_pool()
                yield job, {} if error else future.result(), first_line(error) if error else None
    except BaseException:  # Ctrl-C: what is finished is on disk, the rest would be lost
        for process in [p for pool in workers for p in (pool._processes or {}).values()]:
            process.terminate()
        raise
    finally:
        for pool in workers:
            pool.shutdown(wait=True, cancel_futures=True)


def start_pool() -> ProcessPoolExecutor:
    """A worker: one process with one thread, so that lanes share no pool that could starve."""
    os.environ.setdefault(*LARGE_PAGES)
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, context, start_worker, (RunConfig(threads=1),))


def next_job(waiting: Sequence[Job], own: str | None, held: Collection[str]) -> Job:
    """Of the worker's own task; else of one that nobody is on; else where most is left.

    Of these its calibration first, to which the others are held, then the largest, so that none is
    left alone at the end.
    """
    left = Counter[str]()
    for job in waiting:
        left[job.task] += job.updates
    place = lambda job: (job.task == own, job.task not in held, left[job.task])
    return max(waiting, key=lambda job: (*place(job), job.algo == CALIBRATION, job.updates))


def start_worker(run: RunConfig) -> None:
    """Sets a worker up; Ctrl-C is for the process that has it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Most cells do little but compile; the long ones ask for them (`cell.options`).
    runtime.add_flag(runtime.FUSION_EMITTERS, "false")
    runtime.setup(run)


def first_line(error: BaseException) -> str:
    """An error of a worker in one line."""
    return f"{type(error).__name__}: {error}".splitlines()[0]


def run_job(config: CardConfig, job: Job) -> dict[str, Any]:
    """Rows of one cell, in a worker; with those of the calibration, the task's envelopes."""
    from rlhf_jax.lab.agents import calibration_rows, envelopes
    from rlhf_jax.lab.cell import run_cell
    from rlhf_jax.lab.rows import Plan

    seeds = range(config.first_seed, config.first_seed + config.seeds)
    plan = Plan(seeds=list(seeds), budgets=config.budgets(job.task, job.algo), beta=config.beta)
    last = config.first_instance + config.instances
    place = bench(job.config, range(config.first_instance, last))
    with Watchdog(job.config.run.stall_seconds).guard(job.name):
        if job.algo == CALIBRATION:
            return {"rows": calibration_rows(place, plan), "envelopes": envelopes(place)}
        return {"rows": run_cell(place, job.config, plan), "envelopes": {}}


BENCHES: dict[str, Any] = {}  # of this worker


def bench(config: RLHFConfig, instances: range) -> Any:
    """The instances of a task with their references, made once a worker."""
    from rlhf_jax.lab.bench import make_bench

    shared = {} if config.model.value_head == "separate_matched" else {"value_head": "separate"}
    model = dataclasses.replace(config.model, **shared)  # the value function is a cell's
    task = dataclasses.replace(config.task, labels="sampled", num_pairs=1)  # pairs are a cell's
    plain = dataclasses.replace(config, model=model, task=task)
    parts = {name: getattr(plain, name) for name in ("task", "sft", "sampling", "model")}
    parts = {name: dataclasses.asdict(part) for name, part in parts.items()}
    key = config_hash(parts | {"seed": config.seed, "instances": list(instances)})
    if key not in BENCHES:
        BENCHES[key] = make_bench(plain, instances)
    return BENCHES[key]


def card_of(
    config: CardConfig,
    jobs: Sequence[Job],
    known: dict[str, dict[str, Any]],
    errors: dict[str, str],
    seconds: float,
) -> dict[str, Any]:
    """The content of card.json."""
    order = [known[job.name] for job in jobs if job.name in known]
    rows = [row for found in order for row in found["rows"]]
    envelopes = functools.reduce(lambda a, b: a | b, (f["envelopes"] for f in order), {})
    facts = run_facts()
    facts |= {"device": f"{facts['cores']} cores ({facts['device_kind']})", "seconds": seconds}
    return {
        "facts": facts | {"command": command()},
        "settings": dataclasses.asdict(config),
        "rows": rows,
        "envelopes": envelopes,
        "gates": judge(config, rows, errors),
        "errors": errors,
    }


def command() -> str:
    """What was typed."""
    return shlex.join(["python", "-m", "experiments.exact", *sys.argv[1:]])


def earlier(path: Path) -> dict[str, dict[str, Any]]:
    """Cells that were run before, by key; `clock` is the time spent when each was done."""
    rows = read_rows(path / "cells.jsonl")
    return {row["key"]: row for row in rows if {"key", "rows", "envelopes"} <= row.keys()}


def append(path: Path, row: dict[str, Any]) -> None:
    """Keeps a cell at once, so that an interrupted card loses no finished one."""
    jsonl_sink(path / "cells.jsonl").log(row)
