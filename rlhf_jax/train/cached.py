"""Stages by what they depend on: trained once, and taken from the cache by later runs."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from rlhf_jax.io.console import note
from rlhf_jax.io.sinks import read_rows
from rlhf_jax.train.loop import Session
from rlhf_jax.train.stages import Pipeline
from rlhf_jax.types import Params


@functools.cache
def code_hash() -> str:
    """A hash of the package's source that trains stages: changed code trains them again."""
    root = Path(__file__).parents[1]
    rooms = ("ops", "models", "sampling", "rollout")
    train = ("batches", "evaluate", "preference_data", "reward_model", "sft", "stages", "state")
    files = [f for room in rooms for f in sorted((root / room).glob("*.py"))]
    files += [root / "config" / f"{name}.py" for name in ("fields", "model")]
    files += [root / "train" / f"{name}.py" for name in train]
    files += [root / "losses" / f"{name}.py" for name in ("language_model", "reward_model")]
    digest = hashlib.sha256()
    for file in (*files, root / "optim.py", root / "types.py"):
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
    return params


def cached_params(
    pipeline: Pipeline, name: str, settings: Mapping[str, Any], compute: Callable[[], Params]
) -> Params:
    """Arrays that are no stage of training, from an earlier run or computed now."""
    cache, key = pipeline.cache, identity(name, settings)
    found = cache.get(key) if cache else None
    if found:
        return jax.device_put(found[0])
    params = compute()
    if cache:
        cache.put(key, params, {"rows": []})
    return params


def rows_of(session: Session, stage: str) -> list[dict[str, Any]]:
    """What metrics.jsonl holds of a stage."""
    return [row for row in read_rows(session.run_dir.metrics) if row.get("stage") == stage]
