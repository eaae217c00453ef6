"""One run from settings to records: the pipeline, and everything it leaves behind."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf_jax.checks import check_task
from rlhf_jax.config import ConfigError, RLHFConfig
from rlhf_jax.io.comparison import print_comparison, print_run_dir, print_samples
from rlhf_jax.io.console import note
from rlhf_jax.io.run_dir import RunDir, config_hash, run_facts, write_json, write_jsonl, write_text
from rlhf_jax.io.sinks import Sink, make_sinks
from rlhf_jax.report.plots import plot_run
from rlhf_jax.tasks import make_task
from rlhf_jax.tasks.rewards import RewardFn, load_reward
from rlhf_jax.train.loop import Session, differences
from rlhf_jax.train.pipeline import make_pipeline, run_pipeline
from rlhf_jax.train.records import columns, side_by_side, summarize
from rlhf_jax.train.scoring import host_score

FREE_ON_RESUME = ("resume", "run", "sink", "eval", "sweep")  # may change when a run goes on


def run_rlhf(config: RLHFConfig, path: Path) -> None:
    """Trains, compares, and writes summary.json, samples.jsonl and the plots of a run."""
    start = time.monotonic()
    run_dir = new_or_resumed(config, path)
    plain = dataclasses.asdict(config)
    reward = load_python_reward(config)
    task = make_task(config.task)
    check_task(config, task)
    for line in task.notes:
        note(line)
    if task.codec.serialized:
        write_text(path / "tokenizer.json", task.codec.serialized)
    score_host = None if reward is None else host_score(task.codec, reward)
    with closing_sinks(config, run_dir) as sink:
        session = Session(run_dir=run_dir, run=config.run, sink=sink)
        outcome = run_pipeline(make_pipeline(config, task, session, score_host))
    # Once a side: the reward may be a user's function, and a slow one.
    sides = {"before": outcome.before, "after": outcome.after}
    known = {side: columns(config, task, score_host, found) for side, found in sides.items()}
    summary = summarize(config, task, session, outcome, known)
    summary["seconds"] = time.monotonic() - start
    write_json(run_dir.summary, summary | {"config_hash": config_hash(plain), **run_facts()})
    samples = side_by_side(config, task, outcome, known)
    write_jsonl(run_dir.samples, samples)
    plot_run(path)
    print_comparison(summary["before"], summary["after"], name=config.algo.name)
    print_samples(samples[: config.eval.num_samples], name=config.algo.name)
    print_run_dir(path)


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
