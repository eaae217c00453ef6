"""In a worker that would be idle: compiles a group's program before its stages are trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.io.run_dir import RunDir
from rlhf_jax.io.sinks import Sink
from rlhf_jax.sweep.chunk import layout_for, program_of
from rlhf_jax.sweep.jobs import Job
from rlhf_jax.sweep.lanes import Shared, stacked_keys, stacked_numbers
from rlhf_jax.sweep.layout import Layout
from rlhf_jax.sweep.stages import quiet, task_of
from rlhf_jax.sweep.workers import Tell
from rlhf_jax.train import reward_model, sft
from rlhf_jax.train.loop import Session
from rlhf_jax.train.pipeline import make_pipeline
from rlhf_jax.train.stages import Pipeline
from rlhf_jax.train.state import Frozen


def compile_early(
    tell: Tell, jobs: Sequence[Job], layout: tuple[str, int, bool], root: Path, workers: int
) -> None:
    """As `run_chunk`, but only as far as the program; nothing is written."""
    config = jobs[0].config
    nowhere = Sink(lambda row: None, lambda failed=False: None)
    session = Session(run_dir=RunDir(root), run=quiet(config), sink=nowhere)
    pipeline = make_pipeline(config, task_of(config.task), session)
    configs = [job.config for job in jobs]

    def inputs(layout: Layout) -> tuple[dict[str, Any], Any, Any]:
        lanes = (configs + configs[-1:] * layout.lanes)[: layout.lanes]
        shared = abstract(pipeline)
        if not layout.shared:
            wide = lambda s: jax.ShapeDtypeStruct((layout.lanes, *s.shape), s.dtype)
            shared = jax.tree.map(wide, shared)
        return stacked_numbers(lanes), shared, stacked_keys([c.seed for c in lanes])

    program_of(tell, pipeline, inputs, layout_for(config, layout), workers)


def abstract(pipeline: Pipeline) -> Shared:
    """The shapes of what lanes will read."""
    config, key = pipeline.config, jax.random.key(0)
    first = lambda: sft.init(pipeline.model, config.sft, key).params
    reference = jax.eval_shape(first)
    fit = lambda trunk: reward_model.init(trunk, config.model.width, config.reward_model, key)
    frozen = Frozen(reference=reference, reward=jax.eval_shape(fit, reference).params)
    exact = pipeline.task.exact
    if exact is None:
        return Shared(frozen=frozen, tables=None)
    table: Any = jax.ShapeDtypeStruct((len(exact.prompts.tokens), exact.tree.size), jnp.float32)
    return Shared(frozen=frozen, tables=(table, table))
