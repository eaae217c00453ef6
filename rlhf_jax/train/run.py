"""One run from settings to records: the pipeline, and everything it leaves behind."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax.checks import check_task
from rlhf_jax.config import ConfigError, RLHFConfig
from rlhf_jax.io.comparison import print_comparison, print_run_dir, print_samples
from rlhf_jax.io.console import note
from rlhf_jax.io.run_dir import RunDir, config_hash, run_facts, write_json, write_jsonl, write_text
from rlhf_jax.io.sinks import make_sinks
from rlhf_jax.report.plots import plot_run
from rlhf_jax.tasks import make_task
from rlhf_jax.tasks.protocol import Task
from rlhf_jax.tasks.rewards import load_reward
from rlhf_jax.train.evaluate import Evaluation
from rlhf_jax.train.loop import Session
from rlhf_jax.train.pipeline import Outcome, make_pipeline, run_pipeline
from rlhf_jax.train.scoring import host_score, prompt_and_completion, texts_of

Numbers = dict[str, float]


def run_rlhf(config: RLHFConfig, path: Path) -> None:
    """Trains, compares, and writes summary.json, samples.jsonl and the plots of a run."""
    start = time.monotonic()
    run_dir = new_or_resumed(config, path)
    plain = dataclasses.asdict(config)
    sink = make_sinks(config.sink, run_dir, plain)
    try:
        task = make_task(config.task)
        check_task(config, task)
        for line in task.notes:
            note(line)
        if task.codec.serialized:
            write_text(path / "tokenizer.json", task.codec.serialized)
        session = Session(run_dir=run_dir, run=config.run, sink=sink)
        outcome = run_pipeline(make_pipeline(config, task, session, host_reward(config, task)))
        summary = summarize(config, task, session, outcome)
        summary["seconds"] = time.monotonic() - start
    finally:
        sink.close()
    write_json(run_dir.summary, summary | {"config_hash": config_hash(plain), **run_facts()})
    samples = side_by_side(task, outcome)
    write_jsonl(run_dir.samples, samples)
    plot_run(path)
    print_comparison(summary["before"], summary["after"])
    print_samples(samples[: config.eval.num_samples])
    print_run_dir(path)


def new_or_resumed(config: RLHFConfig, path: Path) -> RunDir:
    """The run's directory; one that holds another run is refused unless it is to be resumed."""
    run_dir = RunDir(path)
    if run_dir.metrics.exists() and config.resume is None:
        accepted = f"already holds a run; go on with it by resume={path}, or choose another"
        raise ConfigError("hydra.run.dir", str(path), accepted)
    return run_dir.create()


def host_reward(config: RLHFConfig, task: Task):
    """The plain Python reward of `task.reward=module:function`; None for in-graph rewards."""
    if config.task.reward in ("reward_model", "gold"):
        return None
    return host_score(task.codec, load_reward(config.task.reward))


def summarize(config: RLHFConfig, task: Task, session: Session, outcome: Outcome) -> dict[str, Any]:
    """Final numbers of a run."""
    return {
        "task": config.task.name,
        "seed": config.seed,
        "before": numbers(task, outcome.before),
        "after": numbers(task, outcome.after),
        "facts": dict(task.facts),
        "stages": session.stages,
        "kl_target": config.algo.kl_target if config.algo.kl_controller == "adaptive" else None,
    }


def numbers(task: Task, evaluation: Evaluation) -> Numbers:
    """Means over the evaluation's completions, with the spread of the gold reward."""
    mean = lambda x: float(np.mean(x))
    finished = np.any(evaluation.rollout.completion_tokens == task.codec.eos_id, axis=1)
    found = {} if task.gold is None else {"gold/score": mean(evaluation.gold)}
    found |= {
        "objective/scores": mean(evaluation.reward),
        "objective/kl": mean(evaluation.kl),
        "policy/entropy_avg": mean(evaluation.entropy),
        "tokens/completion_length": mean(evaluation.length),
        "tokens/finished": mean(finished),
    }
    if task.gold is not None:
        found["gold/std"] = float(np.std(evaluation.gold))
    if task.judge is not None:
        positive = np.asarray(task.judge(texts_of(task.codec, evaluation.rollout)))
        found |= {"judge/score": mean(positive), "judge/positive": mean(positive > 0.5)}
    return found


def side_by_side(task: Task, outcome: Outcome) -> list[dict]:
    """Each evaluation prompt with its completion before and after, and their scores."""
    before, after = outcome.before, outcome.after
    first, second = (prompt_and_completion(task.codec, e.rollout) for e in (before, after))
    rows = []
    for i, ((prompt, old), (_, new)) in enumerate(zip(first, second)):
        scores = {
            "before_scores": scores_of(task, before, i),
            "after_scores": scores_of(task, after, i),
        }
        rows.append({"prompt": prompt, "before": old, "after": new} | scores)
    return rows


def scores_of(task: Task, evaluation: Evaluation, row: int) -> Numbers:
    """What is known about one completion."""
    found = {"objective/scores": evaluation.reward, "objective/kl": evaluation.kl}
    if task.gold is not None:
        found = {"gold/score": evaluation.gold} | found
    return {name: float(values[row]) for name, values in found.items()}
