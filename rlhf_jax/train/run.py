"""One run from settings to records: the pipeline, and everything it leaves behind."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf_jax.checks import check_task
from rlhf_jax.config import ConfigError, RLHFConfig
from rlhf_jax.io.comparison import print_comparison, print_run_dir, print_samples
from rlhf_jax.io.console import note, waiting
from rlhf_jax.io.run_dir import (
    RunDir,
    config_hash,
    finite,
    run_facts,
    write_json,
    write_jsonl,
    write_text,
)
from rlhf_jax.io.sinks import Sink, make_sinks
from rlhf_jax.io.stage_cache import StageCache
from rlhf_jax.report.plots import plot_run
from rlhf_jax.tasks import make_task
from rlhf_jax.tasks.protocol import Task
from rlhf_jax.tasks.rewards import RewardFn, load_reward
from rlhf_jax.train.loop import Session, differences
from rlhf_jax.train.pipeline import Outcome, make_pipeline, run_pipeline
from rlhf_jax.train.records import columns, side_by_side, summarize
from rlhf_jax.train.scoring import host_score
from rlhf_jax.train.stages import Pipeline

FREE_ON_RESUME = ("resume", "run", "sink", "eval", "sweep")  # may change when a run goes on


def run_rlhf(config: RLHFConfig, path: Path) -> None:
    """Trains, compares, and writes summary.json, samples.jsonl and the plots of a run."""
    start = time.monotonic()
    summary, samples = run_recorded(config, path, start)
    with waiting("drawing the plots", config.run.progress):
        plot_run(path)
    print_comparison(summary["before"], summary["after"], name=config.algo.name)
    print_samples(samples[: config.eval.num_samples], name=config.algo.name)
    print_run_dir(path)


def run_recorded(
    config: RLHFConfig, path: Path, start: float, cache: StageCache | None = None
) -> Records:
    """Trains, compares, and writes summary.json and samples.jsonl.

    Args:
      start: when the run began, as `time.monotonic` has it.
      cache: of stages, in place of the one of the settings.
    """
    run_dir = new_or_resumed(config, path)
    reward = load_python_reward(config)
    task = make_task(config.task)
    check_task(config, task)
    for line in task.notes:
        note(line)
    write_tokenizer(task, run_dir)
    score_host = None if reward is None else host_score(task.codec, reward)
    with closing_sinks(config, run_dir) as sink:
        session = Session(run_dir=run_dir, run=config.run, sink=sink)
        pipeline = make_pipeline(config, task, session, score_host, cache)
        outcome = run_pipeline(pipeline)
    return write_records(config, pipeline, outcome, lambda: time.monotonic() - start)


Records = tuple[dict[str, Any], list[dict[str, Any]]]  # summary.json, and rows of samples.jsonl


def write_records(
    config: RLHFConfig,
    pipeline: Pipeline,
    outcome: Outcome,
    seconds: Callable[[], float],
    *,
    error: str | None = None,
) -> Records:
    """Writes summary.json and samples.jsonl of a run that has ended.

    Args:
      config: the settings as they were given; the pipeline's name the model as it is built.
      seconds: how long the run took, asked when all else is done.
      error: why it ended without a policy worth a number, None if it did not.
    """
    # Once a side: the reward may be a user's function, and a slow one.
    sides = {"before": outcome.before, "after": outcome.after}
    scored = lambda found: columns(config, pipeline.task, pipeline.score_host, found)
    known = {side: scored(found) for side, found in sides.items()}
    summary = summarize(config, pipeline.task, pipeline.session, outcome, known)
    lost = [key for key, value in summary["after"].items() if finite(value)[1]]
    if error is None and lost:
        error = f"not finite after training: {', '.join(lost)}"
    summary |= {"status": "finished" if error is None else "diverged", "error": error}
    if error is not None:  # what it ends with is no result
        summary["after"] = dict.fromkeys(summary["after"])
    summary["seconds"] = seconds()
    summary |= {"config_hash": config_hash(dataclasses.asdict(config)), **run_facts()}
    run_dir = pipeline.session.run_dir
    samples = side_by_side(config, pipeline.task, outcome, known)
    write_jsonl(run_dir.samples, samples)
    write_json(run_dir.summary, summary)  # the last: a run that has one is done
    return summary, samples


def write_tokenizer(task: Task, run_dir: RunDir) -> None:
    """Keeps the tokenizer with the run, where it was trained on the task's texts."""
    if task.codec.serialized:
        write_text(run_dir.path / "tokenizer.json", task.codec.serialized)


def new_or_resumed(config: RLHFConfig, path: Path) -> RunDir:
    """The run's directory; one that holds another run is refused unless it is to be resumed."""
    run_dir = RunDir(path)
    if run_dir.metrics.exists() and config.resume is None:
        accepted = f"already holds a run; go on with it by resume={path}, or choose another"
        raise ConfigError("hydra.run.dir", str(path), accepted)
    begun = run_dir.path / "settings.json"
    decisive = {k: v for k, v in dataclasses.asdict(config).items() if k not in FREE_ON_RESUME}
    listed = differences(json.loads(begun.read_text()), decisive) if begun.exists() else ""
    if listed:
        raise ConfigError("resume", str(path), f"was begun with other settings ({listed})")
    if run_dir.summary.exists():
        note("the run has ended before: nothing is trained, only evaluated and drawn again")
    run_dir.create()
    if not begun.exists():
        write_json(begun, decisive)
    return run_dir


@contextmanager
def closing_sinks(config: RLHFConfig, run_dir: RunDir) -> Iterator[Sink]:
    """The run's sinks; they are told whether it failed."""
    sink = make_sinks(config.sink, run_dir, dataclasses.asdict(config))
    try:
        yield sink
    except BaseException:
        sink.close(failed=True)
        raise
    sink.close()


def load_python_reward(config: RLHFConfig) -> RewardFn | None:
    """The function of `task.reward=module:function`; None for rewards that have a name."""
    return load_reward(config.task.reward) if ":" in config.task.reward else None
