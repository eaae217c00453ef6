"""The whole pipeline: supervised model, reward model, tuned policy, comparison before and after."""

from __future__ import annotations

import dataclasses

from rlhf_jax.config import BestOfNConfig, PreferenceConfig, RejectionConfig, RLHFConfig
from rlhf_jax.io.params import save_params
from rlhf_jax.io.stage_cache import StageCache
from rlhf_jax.models.sizes import as_built
from rlhf_jax.models.transformer import make_language_model
from rlhf_jax.tasks.protocol import Task
from rlhf_jax.train.cached import cached_params, cached_stage
from rlhf_jax.train.evaluate import Evaluation
from rlhf_jax.train.loop import Session
from rlhf_jax.train.offline import run_best_of_n, run_preference, run_rejection
from rlhf_jax.train.scoring import ScoreHost
from rlhf_jax.train.stages import (
    Pipeline,
    fit_settings,
    rescaled,
    reward_settings,
    run_reward_model,
    run_sft,
    sft_settings,
)
from rlhf_jax.train.state import Frozen
from rlhf_jax.train.tuning import compile_evaluation, run_sampled
from rlhf_jax.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run of the pipeline ends with."""

    policy: Params
    frozen: Frozen
    before: Evaluation
    after: Evaluation


def make_pipeline(
    config: RLHFConfig,
    task: Task,
    session: Session,
    score_host: ScoreHost | None = None,
    cache: StageCache | None = None,
) -> Pipeline:
    """Builds the model and opens the stage cache: `cache`, or that of the settings."""
    config = dataclasses.replace(config, model=as_built(config.model, task.codec.vocab_size))
    codec = task.codec
    model = make_language_model(config.model, codec.vocab_size, codec.special, ends=codec.ends)
    if cache is None and config.run.cache:
        cache = StageCache(config.run.cache_dir)
    pieces = {"config": config, "task": task, "session": session, "model": model}
    return Pipeline(**pieces, cache=cache, score_host=score_host)


def trained_models(pipeline: Pipeline) -> Frozen:
    """The supervised model and the reward model, each trained now or by an earlier run."""
    run_dir = pipeline.session.run_dir
    reference = cached_stage(pipeline, "sft", sft_settings(pipeline), lambda: run_sft(pipeline))
    save_params(run_dir.params("sft"), reference)
    train_reward = lambda: run_reward_model(pipeline, reference)
    fit = cached_stage(pipeline, "reward_model", fit_settings(pipeline), train_reward)
    reward = normalized(pipeline, reference, fit)
    save_params(run_dir.params("reward_model"), reward)
    return Frozen(reference=reference, reward=reward)


def normalized(pipeline: Pipeline, reference: Params, reward: Params) -> Params:
    """The reward model with the shift and scale asked for; only its head changes."""
    if pipeline.config.reward_model.normalize == "none":
        return reward
    rescale = lambda: rescaled(pipeline, reference, reward)["head"]
    head = cached_params(pipeline, "reward_head", reward_settings(pipeline), rescale)
    return reward | {"head": head}


def run_pipeline(pipeline: Pipeline) -> Outcome:
    """All stages, each cached, checkpointed and resumed on its own."""
    frozen = trained_models(pipeline)
    reference = frozen.reference
    evaluate = compile_evaluation(pipeline, frozen)
    before = evaluate(reference, frozen)
    params = tune(pipeline, frozen)
    save_params(pipeline.session.run_dir.params("policy"), params)
    if isinstance(pipeline.config.algo, BestOfNConfig):
        after = run_best_of_n(pipeline, frozen)
    else:
        after = evaluate(params["policy"], frozen)
    return Outcome(policy=params["policy"], frozen=frozen, before=before, after=after)


def tune(pipeline: Pipeline, frozen: Frozen) -> Params:
    """Runs the algorithm; returns the policy, and its value function if it has one."""
    match pipeline.config.algo:
        case PreferenceConfig():
            return run_preference(pipeline, frozen).params
        case RejectionConfig():
            return run_rejection(pipeline, frozen).params
        case BestOfNConfig():
            return {"policy": frozen.reference}
    return run_sampled(pipeline, frozen).params
