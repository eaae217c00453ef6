"""Each stage of the pipeline: what it compiles, what it feeds it and what it leaves."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.config import RewardModelConfig, RLHFConfig, SFTConfig, split_dynamic
from rlhf_jax.io.stage_cache import StageCache
from rlhf_jax.models.functional import Model
from rlhf_jax.models.value_heads import standardized_head
from rlhf_jax.tasks.protocol import Task
from rlhf_jax.train import reward_model, sft
from rlhf_jax.train.evaluate import make_evaluate
from rlhf_jax.train.loop import Session, Stage, compile_timed, repeat, run_stage
from rlhf_jax.train.scoring import ScoreHost
from rlhf_jax.train.state import Frozen, TrainState, stream
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
        """The run's source of randomness, but for that of `stage_key`."""
        return jax.random.key(self.config.seed)

    @property
    def stage_key(self) -> Key:
        """Randomness of the supervised and the reward model."""
        return jax.random.key(self.config.seed_of_stages)


def sft_settings(pipeline: Pipeline) -> dict[str, Any]:
    """Everything the supervised model depends on, but for the code."""
    config = pipeline.config
    model, settings = dataclasses.asdict(config.model), dataclasses.asdict(config.sft)
    for unused in ("value_head", "value_init", "value_layers"):
        del model[unused]
    return {
        "seed": config.seed_of_stages,
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


def fit_settings(pipeline: Pipeline) -> dict[str, Any]:
    """Everything the reward model's fit depends on: not what fixes its scale afterwards."""
    settings = reward_settings(pipeline)
    if not pipeline.config.reward_model.normalize_before:
        del settings["reward_model"]["normalize"], settings["sampling"]
    return settings


def tuning_settings(pipeline: Pipeline) -> dict[str, Any]:
    """Everything the tuned policy depends on, but for the code."""
    config = pipeline.config
    parts = {"algo": config.algo, "optim": config.optim, "model": config.model}
    settings = {k: dataclasses.asdict(v) for k, v in parts.items()}
    return reward_settings(pipeline) | settings | {"reward": config.task.reward}


def run_sft(pipeline: Pipeline) -> Params:
    """Fits the language model to the task's texts."""
    config, task, model = pipeline.config.sft, pipeline.task, pipeline.model
    static, hparams = split_dynamic(config)
    state = sft.init(model, config, pipeline.stage_key)
    heldout = first_rows(task.heldout_text, MAX_HELDOUT)
    texts, heldout = jax.device_put((task.train_text, heldout))
    step = repeat(sft.make_train_step(model, static))
    return run_supervised(
        pipeline,
        "sft",
        config,
        settings=sft_settings(pipeline),
        state=state,
        training=(step, texts, hparams),
        evaluation=("heldout_loss", sft.make_evaluate(model), heldout),
        shown=("loss", "heldout_loss"),
    )


def run_reward_model(pipeline: Pipeline, reference: Params) -> Params:
    """Fits the reward model to the task's pairs."""
    config, task, model = pipeline.config.reward_model, pipeline.task, pipeline.model
    static, hparams = split_dynamic(config)
    state = reward_model.init(reference, pipeline.config.model.width, config, pipeline.stage_key)
    if config.normalize_before:
        state = dataclasses.replace(state, params=rescaled(pipeline, reference, state.params))
    pairs, heldout = jax.device_put((task.train_pairs, task.heldout_pairs))
    step = repeat(reward_model.make_train_step(model, static))
    return run_supervised(
        pipeline,
        "reward_model",
        config,
        settings=fit_settings(pipeline),
        state=state,
        training=(step, pairs, hparams),
        evaluation=("heldout_accuracy", reward_model.make_evaluate(model), heldout),
        shown=("loss", "accuracy", "heldout_accuracy"),
    )


def run_supervised(
    pipeline: Pipeline,
    name: str,
    config: SFTConfig | RewardModelConfig,
    *,
    settings: dict[str, Any],
    state: TrainState,
    training: tuple[Any, Any, dict],
    evaluation: tuple[str, Any, Any],
    shown: tuple[str, ...],
) -> Params:
    """A stage that repeats one step over fixed data and watches one held-out number.

    `training` is (step, data, hparams), `evaluation` (metric, function, data).
    """
    step, data, hparams = training
    metric, evaluate, heldout = evaluation
    count = jnp.asarray(config.log_every, jnp.int32)
    with pipeline.session.busy(f"compiling {name}"):
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


def rescaled(pipeline: Pipeline, reference: Params, reward: Params) -> Params:
    """Shifts the head to mean 0 over samples of the reference, and scales it to variance 1.

    As Ziegler et al. 2019, section 2.1, so that a KL coefficient means the same whatever the
    scale the pairs left the reward model with. `normalize=shift` leaves the scale.
    """
    frozen = Frozen(reference=reference, reward=reward)
    prompts = jax.device_put(first_rows(pipeline.task.train_prompts, 512))
    evaluate = jax.jit(make_evaluation(pipeline))
    with pipeline.session.busy("normalising the reward model"):
        scores = evaluate(
            reference, frozen, prompts, stream(pipeline.stage_key, "normalize")
        ).reward
    scale = pipeline.config.reward_model.normalize != "shift"
    return reward | {"head": standardized_head(reward["head"], scores, scale=scale)}


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
