"""In a worker: the lanes of a chunk from their settings to their records."""

from __future__ import annotations

import dataclasses
import shutil
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.checks import check_task
from rlhf_jax.config import RLHFConfig, UserError
from rlhf_jax.io.jsonl import read_rows
from rlhf_jax.io.params import save_params
from rlhf_jax.io.sinks import jsonl_sink
from rlhf_jax.sweep.jobs import DIVERGED, FAILED, FINISHED, Job, JobEnd, objective_of, write_error
from rlhf_jax.sweep.lanes import (
    STREAK,
    Program,
    Shared,
    compile_program,
    stacked,
    stacked_keys,
    stacked_numbers,
)
from rlhf_jax.sweep.layout import Layout, lane
from rlhf_jax.sweep.memory import fitting
from rlhf_jax.sweep.plan import cut, group_key, stage_key
from rlhf_jax.sweep.stages import cache_of, quiet, task_of
from rlhf_jax.sweep.workers import Tell, one_line
from rlhf_jax.train.exactly import exact_tables
from rlhf_jax.train.health import Diverged, check_finite, ratio_check
from rlhf_jax.train.loop import Session
from rlhf_jax.train.pipeline import Outcome, make_pipeline, trained_models
from rlhf_jax.train.run import closing_sinks, new_or_resumed, write_records, write_tokenizer
from rlhf_jax.train.stages import Pipeline
from rlhf_jax.train.state import Frozen, TrainState, stream

CALLS = 10  # of the compiled program, at least, in a run
CALL_SECONDS = 5.0  # of a call of the compiled program: as often the sweep shows a sign of life
PROGRAMS: dict[Any, Program] = {}  # of this worker
TABLES: dict[Any, Any] = {}
LEFT = ("metrics.jsonl", "samples.jsonl", "error.json", "settings.json", "wandb_run_id")


@dataclasses.dataclass
class Lane:
    """One job while it runs."""

    job: Job
    pipeline: Pipeline
    frozen: Frozen
    status: str = FINISHED  # what it will be, as far as is known
    error: str | None = None

    def record(self, metrics: Mapping[str, np.ndarray], first: int, seconds: np.ndarray) -> None:
        """Logs updates from number `first` on, one value each; stops where the run would stop."""
        config, name = self.job.config, self.job.config.algo.name
        check = ratio_check(config)
        for i, when in enumerate(seconds):
            row = {k: float(v[i]) for k, v in metrics.items() if k != STREAK}
            place = {"stage": name, "update": first + i, "seconds": float(when)}
            self.pipeline.session.sink.log(place | row)
            try:
                check_finite(name, int(metrics[STREAK][i]), config.run.max_skipped)
                check(row)
            except UserError as error:
                self.status = DIVERGED if isinstance(error, Diverged) else FAILED
                self.error = one_line(error)
                return


def run_chunk(
    tell: Tell, jobs: Sequence[Job], layout: tuple[str, int, bool], root: Path, workers: int
) -> None:
    """Runs jobs of one group as lanes; tells `compiled`, `updates` and the `end` of each job.

    Args:
      layout: strategy, lanes, and whether they share what is frozen.
      workers: processes that share this machine's memory.
    """
    start = time.monotonic()
    lanes = opened(tell, jobs, root)
    if not lanes:
        return
    tell("beat", None)
    fitted = lambda layout: inputs(padded(lanes[: layout.lanes], layout), layout)
    wanted = layout_for(jobs[0].config, layout)
    program = program_of(tell, lanes[0].pipeline, fitted, wanted, workers)
    for part in cut(lanes, program.layout.lanes):  # fewer than asked for, if memory is short
        run_lanes(tell, program, part, start)
        start = time.monotonic()


def opened(tell: Tell, jobs: Sequence[Job], root: Path) -> list[Lane]:
    """The lanes of jobs; one that cannot be opened fails alone."""
    lanes, frozen = list[Lane](), dict[str, Frozen]()
    for job in jobs:
        try:
            lanes.append(open_lane(job, root, frozen))
        except Exception as error:
            tell("end", failed(job, error))
    return lanes


def open_lane(job: Job, root: Path, frozen: dict[str, Frozen]) -> Lane:
    """The job's directory, what it starts from, and where it writes.

    Args:
      frozen: what other lanes start from, by `stage_key`: it lies on the device once.
    """
    config, task = dataclasses.replace(job.config, resume=None), task_of(job.config.task)
    check_task(config, task)
    clear(job.path)
    run_dir = new_or_resumed(config, job.path)
    write_tokenizer(task, run_dir)
    session = Session(run_dir=run_dir, run=quiet(config), sink=jsonl_sink(run_dir.metrics))
    pipeline = make_pipeline(config, task, session, None, cache_of(config, root / "stages"))
    models = trained_models(pipeline)  # also writes their records
    return Lane(job, pipeline, frozen.setdefault(stage_key(config), models))


def clear(path: Path) -> None:
    """Removes what a run left that did not come to its end."""
    for name in LEFT:
        (path / name).unlink(missing_ok=True)
    shutil.rmtree(path / "checkpoints", ignore_errors=True)


def layout_for(config: RLHFConfig, wanted: tuple[str, int, bool]) -> Layout:
    """The layout of a group of these settings; lanes fill all devices evenly."""
    strategy, lanes, shared = wanted
    lanes += -lanes % jax.device_count()
    rows = max(-(-config.algo.updates // CALLS), 1)
    return Layout(strategy=strategy, lanes=lanes, shared=shared, rows=rows)


def program_of(
    tell: Tell,
    pipeline: Pipeline,
    inputs: Callable[[Layout], tuple[dict[str, Any], Any, Any]],
    layout: Layout,
    workers: int,
) -> Program:
    """The program of the pipeline's group, compiled once a worker.

    Args:
      inputs: numbers, what is frozen (or its shapes) and keys, for as many lanes as a layout has.
    """
    key = (group_key(pipeline.config), layout, shapes(inputs(layout)[1]))
    if key not in PROGRAMS:

        def compile_for(layout: Layout) -> Program:
            program = compile_program(pipeline, layout, *inputs(layout))
            tell("compiled", {"seconds": program.seconds, "lanes": layout.lanes})
            return program

        PROGRAMS[key] = fitting(compile_for, layout, workers)
    return PROGRAMS[key]


def shapes(tree: Any) -> str:
    """What a program is compiled for, of a tree of arrays."""
    return str(jax.tree.map(lambda x: (x.shape, str(x.dtype)), tree))


def padded(lanes: Sequence[Lane], layout: Layout) -> list[Lane]:
    """The lanes with the last one repeated until the program is full."""
    return [*lanes, *[lanes[-1]] * (layout.lanes - len(lanes))]


def inputs(lanes: Sequence[Lane], layout: Layout) -> tuple[dict[str, Any], Shared, Any]:
    """Traced numbers, what is frozen, and the keys of as many lanes as the program has."""
    configs = [lane.job.config for lane in lanes]
    each = [shared_of(lane) for lane in (lanes[:1] if layout.shared else lanes)]
    shared = each[0] if layout.shared else stacked(each)
    return stacked_numbers(configs), shared, stacked_keys([c.seed for c in configs])


def shared_of(lane: Lane) -> Shared:
    """What a lane reads; the tables of a listed task are made once a worker."""
    config = lane.job.config
    key = (group_key(config), stage_key(config))
    if key not in TABLES:
        TABLES[key] = exact_tables(lane.pipeline, lane.frozen)
    return Shared(frozen=lane.frozen, tables=TABLES[key])


def run_lanes(tell: Tell, program: Program, lanes: Sequence[Lane], start: float) -> None:
    """All lanes from their first state to their records.

    Args:
      start: when their time began, of which each is given an equal share.
    """
    layout = program.layout
    full = padded(lanes, layout)
    hparams, shared, keys = inputs(full, layout)
    states = program.init(hparams, shared, keys)
    looks = jnp.stack([stream(lane.pipeline.key, "evaluate") for lane in full])
    evaluate = lambda states: jax.block_until_ready(
        program.evaluate(states.params["policy"], hparams, shared, looks)
    )
    begun = time.monotonic()
    before = evaluate(states)
    tell("beat", None)
    looking, begun = time.monotonic() - begun, time.monotonic()
    states = advance_lanes(tell, program, lanes, (states, hparams, shared))
    trained = time.monotonic() - begun
    after, ended = evaluate(states), time.monotonic()
    looking += ended - begun - trained
    share = lambda seconds: seconds / len(lanes)
    stages = {
        "evaluate": {"compile_seconds": 0.0, "seconds": share(looking)},
        lanes[0].job.config.algo.name: {
            "seconds": share(trained),
            "compile_seconds": program.seconds,
            "lanes": len(lanes),
        },
    }
    each = share(ended - start)
    for i, one in enumerate(lanes):
        numbers = dict(state=lane(states, i), before=lane(before, i), after=lane(after, i))
        tell("end", finish(one, stages, lambda: each, **numbers))


def advance_lanes(
    tell: Tell, program: Program, lanes: Sequence[Lane], start: tuple[TrainState, Any, Shared]
) -> TrainState:
    """The loop over calls of the compiled program; every row of every lane is logged."""
    (states, hparams, shared), layout = start, program.layout
    total, done, pace = lanes[0].job.config.algo.updates, 0, None
    clock = time.monotonic()
    while done < total and any(one.status == FINISHED for one in lanes):
        live = np.zeros(layout.lanes, bool)
        live[: len(lanes)] = [one.status == FINISHED for one in lanes]
        wished = 1 if pace is None else max(int(CALL_SECONDS / pace), 1)
        count = min(wished, layout.rows, total - done)
        passed = time.monotonic() - clock
        states, found = program.advance(states, hparams, shared, live, np.int32(count))
        found = jax.device_get(found)
        pace = (time.monotonic() - clock - passed) / count
        seconds = (passed + pace * np.arange(1, count + 1)) / len(lanes)
        for i in np.flatnonzero(live).tolist():
            lanes[i].record({k: v[i] for k, v in found.items()}, done + 1, seconds)
        done += count
        reward = found.get(lanes[0].job.config.sweep.objective, found["objective/scores"])
        last = [float(x) for x in reward[: len(lanes), count - 1]]
        known = [x if one.status == FINISHED else np.nan for one, x in zip(lanes, last)]
        tell("updates", (count, {one.job.number: x for one, x in zip(lanes, known)}))
    if done < total:  # no lane is left
        tell("updates", (total - done, {one.job.number: np.nan for one in lanes}))
    return states


def finish(
    one: Lane, stages: Mapping[str, dict[str, Any]], seconds: Callable[[], float], **found: Any
) -> JobEnd:
    """A lane's records; an error in them is its own."""
    config, run_dir = one.job.config, one.pipeline.session.run_dir
    try:
        if one.status == FAILED:
            raise UserError(one.error or "")
        state: TrainState = found["state"]
        one.pipeline.session.stages.update({k: dict(v) for k, v in stages.items()})
        numbers = {"skipped": int(state.skipped), "update": int(state.update)}
        one.pipeline.session.stages[config.algo.name] |= numbers
        save_params(run_dir.params("policy"), state.params)
        show(one)
        outcome = Outcome(
            policy=state.params["policy"],
            frozen=one.frozen,
            before=found["before"],
            after=found["after"],
        )
        summary, _ = write_records(config, one.pipeline, outcome, seconds, error=one.error)
    except Exception as error:
        return failed(one.job, error)
    objective = objective_of(summary, config.sweep.objective)
    return JobEnd(one.job.number, summary["status"], summary["error"], objective)


def failed(job: Job, error: Exception) -> JobEnd:
    """The end of a job that has an error of its own."""
    write_error(job.path, one_line(error), "".join(traceback.format_exception(error)))
    return JobEnd(job.number, FAILED, one_line(error), None)


def show(one: Lane) -> None:
    """Sends the rows of a lane to where its settings ask for, if that is more than its record."""
    config, run_dir = one.job.config, one.pipeline.session.run_dir
    if config.sink.kind == "jsonl":
        return
    rows = list(read_rows(run_dir.metrics))
    run_dir.metrics.unlink()
    with closing_sinks(config, run_dir) as sink:
        for row in rows:
            sink.log(row)
