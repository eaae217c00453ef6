"""The whole card: cells in worker processes, one a core, and what they add up to."""

from __future__ import annotations

import dataclasses
import functools
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_jax import runtime
from rlhf_jax.config import CardConfig, RLHFConfig, RunConfig, UserError
from rlhf_jax.io.card_table import print_card
from rlhf_jax.io.comparison import print_run_dir
from rlhf_jax.io.console import note, stage_progress, warn
from rlhf_jax.io.jsonl import read_rows
from rlhf_jax.io.run_dir import run_facts, write_json
from rlhf_jax.lab.gates import judge
from rlhf_jax.report.card import load_card, table, write_page

CALIBRATION = "calibration"


@dataclass(frozen=True, kw_only=True)
class Job:
    """One cell of the card, or the calibration rows of a task."""

    task: str
    algo: str  # as it is asked for, or CALIBRATION
    config: RLHFConfig

    @property
    def name(self) -> str:
        """Under which its rows are kept."""
        return f"{self.task}/{self.algo}"


def run_card(config: CardConfig, jobs: Sequence[Job], path: Path) -> bool:
    """Runs what is missing of the jobs, writes the card, and says whether all gates passed."""
    start = time.monotonic()
    path.mkdir(parents=True, exist_ok=True)
    known = earlier(path)
    missing = [job for job in jobs if job.name not in known]
    if known:
        note(f"{len(known)} of {len(jobs)} cells were run before")
    errors: dict[str, str] = {}
    with stage_progress("cells", len(jobs), enabled=config.progress) as bar:
        for done, (job, found, error) in enumerate(results(config, missing), start=len(known) + 1):
            bar.update(done)
            if error is not None:
                errors[job.name] = error
                warn(f"{job.name} failed: {error}")
                continue
            known[job.name] = found
            append(path, {"name": job.name, **found})
    if not known:
        raise UserError(f"no cell of the card could be run: {next(iter(errors.values()), '')}")
    seconds = time.monotonic() - start
    write_json(path / "card.json", card_of(config, jobs, known, errors, seconds))
    return show(path)


def show(path: Path) -> bool:
    """Prints the card of a directory, writes its page, and says whether all gates passed."""
    card = load_card(path)
    print_card(table(card), card["gates"])
    write_page(path)
    print_run_dir(path)
    return all(gate["passed"] for gate in card["gates"])


def results(
    config: CardConfig, jobs: Sequence[Job]
) -> Iterator[tuple[Job, dict[str, Any], str | None]]:
    """(job, what it found, error) as they come in."""
    if not jobs:
        return
    workers = min(config.workers or os.cpu_count() or 1, len(jobs))
    # A process a core and one thread in each: lanes share no pool that could starve.
    settings = (RunConfig(threads=1),)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, runtime.setup, settings) as pool:
        waiting: dict[Future, Job] = {pool.submit(run_job, config, job): job for job in jobs}
        for future in as_completed(waiting):
            error = future.exception()
            text = None if error is None else f"{type(error).__name__}: {error}"
            yield waiting[future], {} if text else future.result(), text


def run_job(config: CardConfig, job: Job) -> dict[str, Any]:
    """Rows of one cell, in a worker; with those of the calibration, the task's envelopes."""
    from rlhf_jax.lab.agents import calibration_rows, envelopes
    from rlhf_jax.lab.cell import run_cell
    from rlhf_jax.lab.rows import Plan

    seeds = range(config.first_seed, config.first_seed + config.seeds)
    powers = range(config.smallest_budget, config.largest_budget + 1)
    plan = Plan(seeds=list(seeds), budgets=[2**i for i in powers], beta=config.beta)
    place = bench(job.config.task.name, config.first_instance, config.instances, job.config)
    if job.algo == CALIBRATION:
        return {"rows": calibration_rows(place, plan), "envelopes": envelopes(place)}
    return {"rows": run_cell(place, job.config, plan), "envelopes": {}}


BENCHES: dict[tuple[str, int, int], Any] = {}  # of this worker


def bench(task: str, first: int, count: int, config: RLHFConfig) -> Any:
    """The instances of a task, made once a worker."""
    from rlhf_jax.lab.bench import make_bench

    key = (task, first, count)
    if key not in BENCHES:
        BENCHES[key] = make_bench(config, range(first, first + count))
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
    powers = range(config.smallest_budget, config.largest_budget + 1)
    facts = run_facts()
    facts |= {"device": f"{facts['cores']} cores ({facts['device_kind']})", "seconds": seconds}
    return {
        "facts": facts | {"command": "python -m experiments.exact"},
        "settings": dataclasses.asdict(config),
        "budgets": [2**i for i in powers],
        "rows": rows,
        "envelopes": envelopes,
        "gates": judge(config, rows),
        "errors": errors,
    }


def earlier(path: Path) -> dict[str, dict[str, Any]]:
    """Cells that were run before, by name."""
    return {row.pop("name"): row for row in read_rows(path / "cells.jsonl")}


def append(path: Path, row: dict[str, Any]) -> None:
    """Keeps a cell at once, so that an interrupted card loses no finished one."""
    with open(path / "cells.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
