"""The whole pipeline: supervised model, reward model, PPO, and the comparison before and after."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from rlhf_jax.config import RLHFConfig
from rlhf_jax.io.params import save_params
from rlhf_jax.io.sinks import read_rows
from rlhf_jax.io.stage_cache import StageCache
from rlhf_jax.models.transformer import make_transformer
from rlhf_jax.tasks.protocol import Task
from rlhf_jax.train.evaluate import Evaluation
from rlhf_jax.train.loop import Session
from rlhf_jax.train.ppo import Frozen
from rlhf_jax.train.scoring import ScoreHost
from rlhf_jax.train.stages import (
    Pipeline,
    compile_evaluation,
    run_ppo,
    run_reward_model,
    run_sft,
)
from rlhf_jax.types import Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a run of the pipeline ends with."""

    policy: Params
    frozen: Frozen
    before: Evaluation
    after: Evaluation


def make_pipeline(
    config: RLHFConfig, task: Task, session: Session, score_host: ScoreHost | None = None
) -> Pipeline:
    """Builds the model and opens the stage cache."""
    model = make_transformer(config.model, task.codec.vocab_size)
    cache = StageCache(config.run.cache_dir) if config.run.cache else None
    pieces = {"config": config, "task": task, "session": session, "model": model}
    return Pipeline(**pieces, cache=cache, score_host=score_host)


def run_pipeline(pipeline: Pipeline) -> Outcome:
    """All stages, each cached, checkpointed and resumed on its own."""
    reference = cached_stage(pipeline, "sft", sft_identity(pipeline), lambda: run_sft(pipeline))
    identity = reward_identity(pipeline)
    train_reward = lambda: run_reward_model(pipeline, reference)
    reward = cached_stage(pipeline, "reward_model", identity, train_reward)
    frozen = Frozen(reference=reference, reward=reward)
    evaluate = compile_evaluation(pipeline, frozen)
    before = evaluate(reference, frozen)
    state = run_ppo(pipeline, frozen)
    save_params(pipeline.session.run_dir.params("policy"), state.params)
    after = evaluate(state.params["policy"], frozen)
    return Outcome(policy=state.params["policy"], frozen=frozen, before=before, after=after)


@functools.cache
def code_hash() -> str:
    """A hash of the package's source that trains stages: changed code trains them again."""
    root = Path(__file__).parents[1]
    rooms = ("ops", "losses", "models", "sampling", "rollout", "train")
    files = sorted(f for room in rooms for f in (root / room).glob("*.py"))
    digest = hashlib.sha256((root / "optim.py").read_bytes())
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def sft_identity(pipeline: Pipeline) -> dict[str, Any]:
    """Everything the supervised model depends on."""
    config = pipeline.config
    model = dataclasses.asdict(config.model)
    del model["value_head"], model["value_init"]
    return {
        "stage": "sft",
        "code": code_hash(),
        "jax": f"{jax.__version__} {jax.default_backend()}",
        "seed": config.seed,
        "data": pipeline.task.fingerprint(),
        "model": model,
        "sft": dataclasses.asdict(config.sft),
    }


def reward_identity(pipeline: Pipeline) -> dict[str, Any]:
    """Everything the reward model depends on."""
    config, sft_key = pipeline.config, sft_identity(pipeline)
    settings = dataclasses.asdict(config.reward_model)
    sampling = dataclasses.asdict(config.sampling)  # normalisation samples the reference
    return {"stage": "reward_model", "after": sft_key, "settings": settings, "sampling": sampling}


def cached_stage(pipeline: Pipeline, name: str, identity: Mapping[str, Any], train: Any) -> Params:
    """Parameters of a stage, from an earlier run that asked for the same or trained now."""
    cache, session = pipeline.cache, pipeline.session
    found = cache.get(identity) if cache else None
    if found:
        params, info = jax.device_put(found[0]), dict(found[1])
        session.stages[name] = info | {"cached": True}
        if not any(row.get("stage") == name for row in read_rows(session.run_dir.metrics)):
            place = {"stage": name, "update": info["update"], "seconds": 0.0}
            session.sink.log(place | info["final"])
    else:
        params = train()
        info = session.stages[name]
        if cache:
            cache.put(identity, params, info)
    save_params(session.run_dir.params(name), params)
    return params
