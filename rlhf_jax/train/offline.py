"""Algorithms that learn from fixed data: preference losses, rejection fine-tuning, best of n."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.config import (
    BestOfNConfig,
    PreferenceConfig,
    RejectionConfig,
    of_kind,
    split_dynamic,
)
from rlhf_jax.io.console import note
from rlhf_jax.io.sinks import truncate_after
from rlhf_jax.ops.best_of_n import best_of_n_kl
from rlhf_jax.train import best_of_n, one_step, preference, rejection
from rlhf_jax.train.cached import cached_params
from rlhf_jax.train.evaluate import Evaluation, judge_rollout
from rlhf_jax.train.exactly import make_look
from rlhf_jax.train.loop import compile_timed, repeat
from rlhf_jax.train.preference_data import (
    REFERENCE_FREE,
    PreferenceData,
    make_data,
    mismatched_pairs,
)
from rlhf_jax.train.scoring import in_parts, make_score
from rlhf_jax.train.stages import Pipeline, first_rows, sft_settings
from rlhf_jax.train.state import Frozen, TrainState, stream
from rlhf_jax.train.tuning import run_tuning
from rlhf_jax.types import PairBatch, Params, TextRollout


def run_preference(pipeline: Pipeline, frozen: Frozen) -> TrainState:
    """Fits the policy to the task's pairs by a direct preference loss."""
    config, task, model = pipeline.config, pipeline.task, pipeline.model
    static, hparams = split_dynamic(config)
    algo = of_kind(config.algo, PreferenceConfig)
    data = referenced(pipeline, frozen.reference, task.train_pairs, "train")
    heldout = referenced(pipeline, frozen.reference, task.heldout_pairs, "heldout")
    state = jax.tree.map(jnp.copy, one_step.init(config, frozen, pipeline.key))
    step = repeat(preference.make_train_step(model, static))
    accuracy = preference.make_evaluate(model, algo.loss)
    advance, seconds = compiled(pipeline, step, state, data, hparams)
    look = jax.jit(make_look(pipeline, frozen))
    with pipeline.session.busy(f"compiling the evaluation of {algo.name}"):
        measure, more = compile_timed(accuracy, state.params, heldout)
    return run_tuning(
        pipeline,
        state,
        advance,
        seconds + more,
        chunk=algo.log_every,
        shown=("loss", "rewards/margins", "heldout_accuracy"),
        evaluate=lambda state: {"heldout_accuracy": measure(state.params, heldout)} | look(state),
    )


def compiled(pipeline: Pipeline, step: Callable, state: TrainState, data: Any, hparams: dict):
    """A repeated step over fixed data as the loop calls it, and the seconds to compile it."""
    count = jnp.asarray(1, jnp.int32)
    with pipeline.session.busy(f"compiling {pipeline.config.algo.name}"):
        step, seconds = compile_timed(step, state, data, hparams, count, donate=True)
    return lambda state, n: step(state, data, hparams, jnp.asarray(n, jnp.int32)), seconds


def referenced(
    pipeline: Pipeline, reference: Params, pairs: PairBatch, split: str
) -> PreferenceData:
    """The pairs with the reference's log-probs, from an earlier run or computed now."""
    loss, pairs = of_kind(pipeline.config.algo, PreferenceConfig).loss, jax.device_put(pairs)
    kind = loss if loss in ("kto", *REFERENCE_FREE) else "pairs"
    settings = sft_settings(pipeline) | {"split": split, "kind": kind}

    def compute() -> Params:
        with pipeline.session.busy("reference log-probs"):
            prepare = jax.jit(make_data(pipeline.model, loss))
            return stored(jax.block_until_ready(prepare(reference, pairs)))

    return restored(pairs, cached_params(pipeline, "reference_log_probs", settings, compute))


def stored(data: PreferenceData) -> Params:
    """What is worth keeping: the log-probs, without the texts."""
    kept: Params = {"chosen": data.ref_chosen, "rejected": data.ref_rejected}
    return kept if data.mismatched is None else kept | {"mismatched": stored(data.mismatched)}


def restored(pairs: PairBatch, kept: Params) -> PreferenceData:
    """The inverse of `stored`."""
    mismatched = kept.get("mismatched")
    if mismatched is not None:
        mismatched = restored(mismatched_pairs(pairs), mismatched)
    return PreferenceData(
        pairs=pairs,
        ref_chosen=kept["chosen"],
        ref_rejected=kept["rejected"],
        mismatched=mismatched,
    )


def run_rejection(pipeline: Pipeline, frozen: Frozen) -> TrainState:
    """Draws n completions of each prompt from the reference and fits the policy to the best."""
    config, algo = pipeline.config, of_kind(pipeline.config.algo, RejectionConfig)
    static, hparams = split_dynamic(config)
    prompts = first_rows(pipeline.task.train_prompts, algo.num_prompts)
    rollout, scores, _ = scored_samples(pipeline, frozen, prompts, algo.n, "rejection")
    if scores.size < algo.num_prompts * algo.n:
        note(f"{algo.name}: the task has only {scores.size // algo.n} prompts")
    data, best, _ = best_of_n.select_best(rollout, scores.reshape(-1, algo.n))
    note(f"{algo.name}: mean score {scores.mean():.3g} of all, {best.mean():.3g} of the best")
    state = jax.tree.map(jnp.copy, one_step.init(config, frozen, pipeline.key))
    step = repeat(rejection.make_train_step(pipeline.model, static))
    advance, seconds = compiled(pipeline, step, state, jax.device_put(data), hparams)
    look = jax.jit(make_look(pipeline, frozen))
    return run_tuning(pipeline, state, advance, seconds, shown=("loss",), evaluate=look)


def scored_samples(
    pipeline: Pipeline, frozen: Frozen, prompts: Any, n: int, purpose: str
) -> tuple[TextRollout, np.ndarray, np.ndarray | None]:
    """n completions of each prompt from the reference: texts, scores and gold rewards [N * n]."""
    config, task, codec = pipeline.config, pipeline.task, pipeline.task.codec
    draw = best_of_n.make_samples(pipeline.model, config, n=n, special=codec.special)
    score = make_score(config.task.reward, pipeline.model, task.in_graph, codec.special)
    key = stream(pipeline.key, purpose)
    with pipeline.session.busy(f"sampling for {config.algo.name}"):
        rollout = jax.jit(draw)(frozen.reference, jax.device_put(prompts), key)
        if pipeline.score_host is None:
            scores = np.asarray(jax.jit(in_parts(score))(frozen, rollout))
        else:
            scores = np.asarray(pipeline.score_host(rollout))
        if task.gold is None:
            return rollout, scores, None
        gold = make_score("gold", pipeline.model, task.in_graph, codec.special)
        return rollout, scores, np.asarray(jax.jit(in_parts(gold))(frozen, rollout))


def run_best_of_n(pipeline: Pipeline, frozen: Frozen) -> Evaluation:
    """What the best of n completions is worth, and a row for every n up to it in the metrics."""
    config, session = pipeline.config, pipeline.session
    algo, start = of_kind(config.algo, BestOfNConfig), time.monotonic()
    truncate_after(session.run_dir.metrics, algo.name, 0)  # of a run that is resumed
    prompts = first_rows(pipeline.task.eval_prompts, config.eval.num_prompts)
    rollout, scores, gold = scored_samples(pipeline, frozen, prompts, algo.n, "best_of_n")
    best, _, _ = best_of_n.select_best(rollout, scores.reshape(-1, algo.n))
    log_probs = jnp.sum(rollout.behavior_log_probs, axis=1)
    for n, row in enumerate(best_of_n.worth(algo.n, scores, gold, log_probs), start=1):
        place = {"stage": algo.name, "update": n, "seconds": time.monotonic() - start}
        session.sink.log(place | row)
    session.stages[algo.name] = {"seconds": time.monotonic() - start, "update": algo.n}
    judge = lambda best: judge_rollout(
        pipeline.model,
        frozen.reference,
        frozen,
        best,
        config.sampling,
        pipeline.task.gold,
    )
    found = jax.jit(judge)(best)
    chosen = jnp.sum(best.behavior_log_probs, axis=1)
    return dataclasses.replace(found, kl=best_of_n_kl(algo.n, chosen))
