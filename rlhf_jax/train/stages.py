"""Each stage of the pipeline: what it compiles, what it feeds it and what it leaves."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.config import RLHFConfig, split_dynamic
from rlhf_jax.io.stage_cache import StageCache
from rlhf_jax.models.functional import Model
from rlhf_jax.models.value_heads import standardized_head
from rlhf_jax.tasks.protocol import Task
from rlhf_jax.train import ppo, reward_model, sft
from rlhf_jax.train.evaluate import Evaluation, make_evaluate
from rlhf_jax.train.health import ratio_check
from rlhf_jax.train.loop import Session, Stage, compile_timed, repeat, run_stage
from rlhf_jax.train.ppo import Frozen
from rlhf_jax.train.scoring import ScoreHost, make_score, make_watch
from rlhf_jax.train.state import TrainState, stream
from rlhf_jax.types import Key, Params

MAX_HELDOUT = 2048  # texts that are looked at about ten times a stage


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One run: its settings, its task, its model and where it writes."""

    config: RLHFConfig
    task: Task
    session: Session
    model: Model
    cache: StageCache | None
    score_host: ScoreHost | None = None  # a plain Python reward, None if the reward is in-graph

    @property
    def key(self) -> Key:
        """The run's only source of randomness."""
        return jax.random.key(self.config.seed)


def sft_settings(pipeline: Pipeline) -> dict[str, Any]:
    """Everything the supervised model depends on, but for the code."""
    config = pipeline.config
    model, settings = dataclasses.asdict(config.model), dataclasses.asdict(config.sft)
    for unused in ("value_head", "value_init"):
        del model[unused]
    return {
        "seed": config.seed,
        "data": pipeline.task.fingerprint(),
        "precision": config.run.matmul_precision,
        "model": model,
        "sft": settings,
    }


def reward_settings(pipeline: Pipeline) -> dict[str, Any]:
    """Everything the reward model depends on, but for the code."""
    config = pipeline.config
    # The scale is set on samples of the reference, so sampling counts.
    parts = {"reward_model": config.reward_model, "sampling": config.sampling}
    return sft_settings(pipeline) | {k: dataclasses.asdict(v) for k, v in parts.items()}


def ppo_settings(pipeline: Pipeline) -> dict[str, Any]:
    """Everything the tuned policy depends on, but for the code."""
    config = pipeline.config
    parts = {"algo": config.algo, "optim": config.optim, "model": config.model}
    settings = {k: dataclasses.asdict(v) for k, v in parts.items()}
    return reward_settings(pipeline) | settings | {"reward": config.task.reward}


def run_sft(pipeline: Pipeline) -> Params:
    """Fits the language model to the task's texts."""
    config, task, model = pipeline.config.sft, pipeline.task, pipeline.model
    static, hparams = split_dynamic(config)
    state = sft.init(model, config, pipeline.key)
    heldout = first_rows(task.heldout_text, MAX_HELDOUT)
    texts, heldout = jax.device_put((task.train_text, heldout))
    step = repeat(sft.make_train_step(model, static))
    return run_supervised(
        pipeline,
        "sft",
        config,
        sft_settings(pipeline),
        state,
        (step, texts, hparams),
        ("heldout_loss", sft.make_evaluate(model), heldout),
        ("loss", "heldout_loss"),
    )


def run_reward_model(pipeline: Pipeline, reference: Params) -> Params:
    """Fits the reward model to the task's pairs, then fixes its shift and scale."""
    config, task, model = pipeline.config.reward_model, pipeline.task, pipeline.model
    static, hparams = split_dynamic(config)
    state = reward_model.init(reference, pipeline.config.model.width, config, pipeline.key)
    pairs, heldout = jax.device_put((task.train_pairs, task.heldout_pairs))
    step = repeat(reward_model.make_train_step(model, static))
    params = run_supervised(
        pipeline,
        "reward_model",
        config,
        reward_settings(pipeline),
        state,
        (step, pairs, hparams),
        ("heldout_accuracy", reward_model.make_evaluate(model), heldout),
        ("loss", "accuracy", "heldout_accuracy"),
    )
    return normalize_reward(pipeline, reference, params) if config.normalize else params


def run_supervised(pipeline, name, config, settings, state, training, evaluation, shown) -> Params:
    """A stage that repeats one step over fixed data and watches one held-out number."""
    step, data, hparams = training
    metric, evaluate, heldout = evaluation
    count = jnp.asarray(config.log_every, jnp.int32)
    with pipeline.session.guard(f"compiling {name}"):
        advance, compile_step = compile_timed(step, state, data, hparams, count, donate=True)
        measure, compile_evaluate = compile_timed(evaluate, state.params, heldout)
    last: dict[str, float] = {}

    def on_heldout(state: TrainState) -> dict[str, Any]:
        last[metric] = float(measure(state.params, heldout))
        return last

    stage = Stage(
        name=name,
        total=config.steps,
        chunk=config.log_every,
        save_every=max(config.steps // 4, 1),
        settings=settings,
        advance=lambda state, n: advance(state, data, hparams, jnp.asarray(n, jnp.int32)),
        evaluate=on_heldout,
        shown=shown,
    )
    # The step gives its state's buffers away, and the caller may still need those it came from.
    state = run_stage(pipeline.session, stage, jax.tree.map(jnp.copy, state))
    final = last or on_heldout(state)
    pipeline.session.stages[name] |= {
        "compile_seconds": compile_step + compile_evaluate,
        "update": config.steps,
        "final": dict(final),
        "cached": False,
    }
    return state.params


def normalize_reward(pipeline: Pipeline, reference: Params, reward: Params) -> Params:
    """Shifts and scales the head to mean 0 and variance 1 over samples of the reference.

    As Ziegler et al. 2019, section 2.1, so that a KL coefficient means the same whatever the
    scale the pairs left the reward model with.
    """
    frozen = Frozen(reference=reference, reward=reward)
    prompts = jax.device_put(first_rows(pipeline.task.train_prompts, 512))
    evaluate = jax.jit(make_evaluation(pipeline))
    with pipeline.session.guard("normalising the reward model"):
        scores = evaluate(reference, frozen, prompts, stream(pipeline.key, "normalize")).reward
    return {"trunk": reward["trunk"], "head": standardized_head(reward["head"], scores)}


def first_rows(tree: Any, count: int) -> Any:
    """At most the first `count` rows of every array."""
    return jax.tree.map(lambda x: x[:count], tree)


def make_evaluation(pipeline: Pipeline) -> Any:
    """The evaluation of a policy with this run's model, sampling and task."""
    codec = pipeline.task.codec
    return make_evaluate(
        pipeline.model,
        pipeline.config,
        special=codec.special,
        gold=pipeline.task.gold,
    )


def compile_evaluation(pipeline: Pipeline, frozen: Frozen) -> Any:
    """`(policy, frozen) -> Evaluation` on the evaluation prompts, always with the same key."""
    prompts = first_rows(pipeline.task.eval_prompts, pipeline.config.eval.num_prompts)
    prompts, key = jax.device_put(prompts), stream(pipeline.key, "evaluate")
    args = (frozen.reference, frozen, prompts, key)
    with pipeline.session.guard("compiling the evaluation"):
        compiled, seconds = compile_timed(make_evaluation(pipeline), *args)
    record = pipeline.session.stages["evaluate"] = {"compile_seconds": seconds, "seconds": 0.0}

    def evaluate(policy: Params, frozen: Frozen) -> Evaluation:
        start = time.monotonic()
        with pipeline.session.guard("evaluation"):
            found = jax.block_until_ready(compiled(policy, frozen, prompts, key))
        record["seconds"] += time.monotonic() - start
        return found

    return evaluate


def run_ppo(pipeline: Pipeline, frozen: Frozen) -> TrainState:
    """Improves the policy; one compiled program an update if the reward is in-graph."""
    config, codec = pipeline.config, pipeline.task.codec
    static, hparams = split_dynamic(config)
    score = make_score(config.task.reward, pipeline.model, pipeline.task.gold)
    steps = ppo.make_ppo(
        pipeline.model,
        static,
        special=codec.special,
        score=score,
        watch=make_watch(pipeline.task.gold),
    )
    state = jax.tree.map(jnp.copy, ppo.init(config, frozen, pipeline.key))
    prompts = jax.device_put(pipeline.task.train_prompts)
    args = (state, prompts, frozen, hparams)
    with pipeline.session.guard("compiling ppo"):
        if pipeline.score_host is None:
            step, seconds = compile_timed(steps.train_step, *args, donate=True)
            advance = lambda state, n: step(state, *args[1:])
        else:
            advance, seconds = host_scored(pipeline.score_host, steps, *args)
    shown = ("objective/scores", "gold/score", "objective/kl", "objective/kl_coef")
    stage = Stage(
        name="ppo",
        total=config.algo.updates,
        chunk=1,
        save_every=config.run.checkpoint_every,
        settings=ppo_settings(pipeline),
        advance=advance,
        shown=shown,
        check=ratio_check(config),
    )
    state = run_stage(pipeline.session, stage, state)
    pipeline.session.stages["ppo"] |= {"compile_seconds": seconds, "update": config.algo.updates}
    return state


def host_scored(score: ScoreHost, steps: ppo.PPO, state, prompts, frozen, hparams):
    """An update in two programs with a plain Python reward between them."""
    collect, first = compile_timed(steps.collect, state, prompts, hparams)
    rollout = collect(state, prompts, hparams)
    zeros = jnp.zeros(rollout.completion_tokens.shape[0], jnp.float32)
    args = (state, rollout, zeros, frozen, hparams)
    learn, second = compile_timed(steps.learn, *args, donate=True)

    def advance(state: TrainState, n: int):
        rollout = collect(state, prompts, hparams)
        return learn(state, rollout, jnp.asarray(score(rollout)), frozen, hparams)

    return advance, first + second
