"""The whole pipeline: supervised model, reward model, PPO, and the comparison before and after."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from rlhf_jax.config import RLHFConfig
from rlhf_jax.io.console import note
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
    reward_settings,
    run_ppo,
    run_reward_model,
    run_sft,
    sft_settings,
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
    reference = cached_stage(pipeline, "sft", sft_settings(pipeline), lambda: run_sft(pipeline))
    train_reward = lambda: run_reward_model(pipeline, reference)
    reward = cached_stage(pipeline, "reward_model", reward_settings(pipeline), train_reward)
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
    rooms = ("ops", "losses", "models", "sampling", "rollout")
    train = ("batches", "evaluate", "reward_model", "sft", "stages", "state")
    files = [f for room in rooms for f in sorted((root / room).glob("*.py"))]
    files += [root / "train" / f"{name}.py" for name in train]
    digest = hashlib.sha256()
    for file in (*files, root / "optim.py", root / "types.py", root / "config.py"):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def identity(stage: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The key of a cached stage: its settings, and the code and platform that ran them."""
    platform = f"{jax.__version__} {jax.default_backend()}"
    return {"stage": stage, "code": code_hash(), "jax": platform, "settings": settings}


def cached_stage(
    pipeline: Pipeline, name: str, settings: Mapping[str, Any], train: Callable[[], Params]
) -> Params:
    """Parameters of a stage, from an earlier run that asked for the same or trained now."""
    cache, session, key = pipeline.cache, pipeline.session, identity(name, settings)
    found = cache.get(key) if cache else None
    if found:
        note(f"{name}: an earlier run trained the same; taken from the cache (run.cache=false)")
        params, info = jax.device_put(found[0]), dict(found[1])
        earlier = info.pop("rows")
        session.stages[name] = info | {"cached": True}
        if not rows_of(session, name):
            for row in earlier:  # so that the record and the plots are whole
                session.sink.log(row)
    else:
        params = train()
        info = session.stages[name]
        if cache:
            cache.put(key, params, info | {"rows": rows_of(session, name)})
    save_params(session.run_dir.params(name), params)
    return params


def rows_of(session: Session, stage: str) -> list[dict[str, Any]]:
    """What metrics.jsonl holds of a stage."""
    return [row for row in read_rows(session.run_dir.metrics) if row.get("stage") == stage]
