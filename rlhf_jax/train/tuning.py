"""The stage that improves the policy: which algorithm runs, on what, and how it is compiled."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.config import OnlineDPOConfig, PolicyGradientConfig, RLHFConfig, split_dynamic
from rlhf_jax.train import one_step, online_dpo, policy_gradient
from rlhf_jax.train.evaluate import Evaluation
from rlhf_jax.train.exactly import make_look, watched
from rlhf_jax.train.health import ratio_check
from rlhf_jax.train.loop import Stage, compile_timed, run_stage
from rlhf_jax.train.scoring import ScoreHost, make_score, make_watch
from rlhf_jax.train.stages import Pipeline, first_rows, make_evaluation, tuning_settings
from rlhf_jax.train.state import Algorithm, Frozen, TrainState, stream
from rlhf_jax.types import Key, Params

SHOWN = ("objective/scores", "gold/score", "objective/kl", "objective/kl_coef")


def make_algorithm(pipeline: Pipeline) -> Algorithm:
    """The update of an algorithm that samples."""
    config, task = pipeline.config, pipeline.task
    special = task.codec.special
    online = isinstance(config.algo, OnlineDPOConfig)
    make = online_dpo.make_online_dpo if online else policy_gradient.make_policy_gradient
    return make(
        pipeline.model,
        split_dynamic(config)[0],
        special=special,
        score=make_score(config.task.reward, pipeline.model, task.in_graph, special),
        watch=make_watch(task.gold, special),
    )


def make_init(config: RLHFConfig) -> Callable[[RLHFConfig, Frozen, Key], TrainState]:
    """`(config, frozen, key) -> state` before the first update of an algorithm that samples."""
    family = isinstance(config.algo, PolicyGradientConfig)
    return policy_gradient.init if family else one_step.init


def run_sampled(pipeline: Pipeline, frozen: Frozen) -> TrainState:
    """Improves the policy on its own samples; one compiled program if the reward is in-graph."""
    config = pipeline.config
    steps = watched(make_algorithm(pipeline), make_look(pipeline, frozen))
    hparams = split_dynamic(config)[1]
    state = jax.tree.map(jnp.copy, make_init(config)(config, frozen, pipeline.key))
    args = (state, jax.device_put(pipeline.task.train_prompts), frozen, hparams)
    with pipeline.session.busy(f"compiling {config.algo.name}"):
        if pipeline.score_host is None:
            step, seconds = compile_timed(steps.train_step, *args, donate=True)
            advance = lambda state, n: step(state, *args[1:])
        else:
            advance, seconds = host_scored(pipeline.score_host, steps, *args)
    return run_tuning(pipeline, state, advance, seconds, check=ratio_check(config))


def run_tuning(
    pipeline: Pipeline,
    state: TrainState,
    advance: Callable[..., Any],
    seconds: float,
    *,
    chunk: int = 1,
    shown: tuple[str, ...] = SHOWN,
    **hooks: Any,
) -> TrainState:
    """The loop over updates, and what the summary tells of it; `hooks` are those of `Stage`."""
    config, name = pipeline.config, pipeline.config.algo.name
    stage = Stage(
        name=name,
        total=config.algo.updates,
        chunk=chunk,
        save_every=config.run.checkpoint_every,
        settings=tuning_settings(pipeline),
        advance=advance,
        shown=shown,
        **hooks,
    )
    state = run_stage(pipeline.session, stage, state)
    pipeline.session.stages[name] |= {"compile_seconds": seconds, "update": config.algo.updates}
    return state


def host_scored(score: ScoreHost, steps: Algorithm, state, prompts, frozen, hparams):
    """An update in two programs with a plain Python reward between them."""
    collect, first = compile_timed(steps.collect, state, prompts, hparams)
    rollout = jax.eval_shape(steps.collect, state, prompts, hparams)
    zeros = jnp.zeros(rollout.completion_tokens.shape[0], jnp.float32)
    args = (state, rollout, zeros, frozen, hparams)
    learn, second = compile_timed(steps.learn, *args, donate=True)

    def advance(state: TrainState, n: int):
        rollout = collect(state, prompts, hparams)
        return learn(state, rollout, jnp.asarray(score(rollout)), frozen, hparams)

    return advance, first + second


def compile_evaluation(
    pipeline: Pipeline, frozen: Frozen
) -> Callable[[Params, Frozen], Evaluation]:
    """`(policy, frozen) -> Evaluation` on the evaluation prompts, always with the same key."""
    prompts = first_rows(pipeline.task.eval_prompts, pipeline.config.eval.num_prompts)
    prompts, key = jax.device_put(prompts), stream(pipeline.key, "evaluate")
    args = (frozen.reference, frozen, prompts, key)
    with pipeline.session.busy("compiling the evaluation"):
        compiled, seconds = compile_timed(make_evaluation(pipeline), *args)
    record = pipeline.session.stages["evaluate"] = {"compile_seconds": seconds, "seconds": 0.0}

    def evaluate(policy: Params, frozen: Frozen) -> Evaluation:
        start = time.monotonic()
        with pipeline.session.busy("evaluation"):
            found = jax.block_until_ready(compiled(policy, frozen, prompts, key))
        record["seconds"] += time.monotonic() - start
        return found

    return evaluate
