"""One compiled program for many runs: every array of a run's state gets an axis of lanes.

Lanes differ in traced numbers and in their seed. What is frozen is read by all of them and has no
such axis where they share it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rlhf_jax.config import RLHFConfig, merge_dynamic, split_dynamic
from rlhf_jax.sweep.layout import Layout, over
from rlhf_jax.train.evaluate import Evaluation, make_evaluate
from rlhf_jax.train.exactly import Tables, look
from rlhf_jax.train.loop import compile_timed
from rlhf_jax.train.stages import Pipeline, first_rows
from rlhf_jax.train.state import Frozen, TrainState
from rlhf_jax.train.tuning import make_algorithm, make_init
from rlhf_jax.types import Array, Key, Params, record

STREAK = "skipped_in_a_row"  # beside the metrics of an update
PARTS = ("task", "model", "sampling", "algo", "optim")  # of the settings: what lanes are made of


@record
class Shared:
    """What lanes read and never change."""

    frozen: Frozen
    tables: Tables | None  # of a task whose completions are listed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """What a group of lanes compiles.

    `init(hparams, shared, keys) -> states`; `advance(states, hparams, shared, live, count) ->
    (states, metrics [lanes, rows])`; `evaluate(policies, hparams, shared, keys) -> Evaluation`.
    """

    layout: Layout
    init: Callable[..., TrainState]
    advance: Callable[..., tuple[TrainState, dict[str, Array]]]
    evaluate: Callable[..., Evaluation]
    seconds: float  # that compilation took
    bytes: int  # of `advance`, as the compiler estimates it


def numbers(config: RLHFConfig) -> dict[str, Any]:
    """The traced numbers of one lane; not those of its stages, nor its seed, which is a key."""
    hparams = split_dynamic(config)[1]
    return {name: hparams[name] for name in PARTS if name in hparams}


def stacked(trees: Sequence[Any]) -> Any:
    """Equal trees as one, with an axis of lanes in front."""
    return jax.tree.map(lambda *x: jnp.stack([jnp.asarray(a) for a in x]), *trees)


def stacked_numbers(configs: Sequence[RLHFConfig]) -> dict[str, Any]:
    """`numbers` of several lanes, float32 [lanes] each."""
    join = lambda *x: jnp.asarray(np.array(x, np.float32))
    return jax.tree.map(join, *[numbers(config) for config in configs])


def stacked_keys(seeds: Sequence[int]) -> Key:
    """The sources of randomness of several lanes."""
    return jnp.stack([jax.random.key(seed) for seed in seeds])


def make_update(pipeline: Pipeline) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """`(state, hparams, shared, prompts) -> (state, metrics)`: an update of one lane."""
    static = split_dynamic(pipeline.config)[0]
    train_step = make_algorithm(pipeline).train_step

    def update(state: TrainState, hparams: dict[str, Any], shared: Shared, prompts: Any):
        after, metrics = train_step(state, prompts, shared.frozen, hparams)
        config = merge_dynamic(static, hparams)
        metrics = metrics | look(pipeline, config, shared.tables, after)
        return after, metrics | {"val/skipped": after.skipped, STREAK: after.skipped_in_a_row}

    return update


def make_advance(pipeline: Pipeline, layout: Layout) -> Callable[..., Any]:
    """`(states, hparams, shared, prompts, live, count)`: so many updates of every live lane.

    Metrics are [lanes, rows], filled up to `count`. The count is traced, so a shorter last
    call is not another program. Mapped lanes that are not live cost nothing; vmapped ones go on,
    and what they do is not looked at.
    """
    update = jax.jit(make_update(pipeline))  # else traced for its shapes and again in the loop

    def one(parts: Any, shared: Shared, common: Any):
        (state, (hparams, live)), (prompts, count) = parts, common
        _, shapes = jax.eval_shape(update, state, hparams, shared, prompts)
        empty = {k: jnp.zeros(layout.rows, s.dtype) for k, s in shapes.items()}

        def body(i: Array, carry: Any):
            state, metrics = update(carry[0], hparams, shared, prompts)
            return state, {k: v.at[i].set(metrics[k]) for k, v in carry[1].items()}

        todo = count if layout.strategy == "vmap" else jnp.where(live, count, 0)
        return lax.fori_loop(0, todo, body, (state, empty))

    lanes = over(layout, one, in_place=True)

    def advance(states, hparams, shared, prompts, live, count):
        return lanes((states, (hparams, live)), shared, (prompts, count))

    return advance


def make_first(pipeline: Pipeline, layout: Layout) -> Callable[..., TrainState]:
    """`(hparams, shared, keys) -> states` before the first update."""
    static, init = split_dynamic(pipeline.config)[0], make_init(pipeline.config)

    def one(parts: Any, shared: Shared, _: Any) -> TrainState:
        hparams, key = parts
        return init(merge_dynamic(static, hparams), shared.frozen, key)

    lanes = over(layout, one)
    return lambda hparams, shared, keys: lanes((hparams, keys), shared, None)


def make_evaluation(pipeline: Pipeline, layout: Layout) -> Callable[..., Evaluation]:
    """`(policies, hparams, shared, keys, prompts) -> Evaluation` of all lanes."""
    static, task = split_dynamic(pipeline.config)[0], pipeline.task

    def one(parts: Any, shared: Shared, prompts: Any) -> Evaluation:
        policy, hparams, key = parts
        config = merge_dynamic(static, hparams)
        pieces = {"special": task.codec.special, "gold": task.gold}
        evaluate = make_evaluate(pipeline.model, config, **pieces)
        return evaluate(policy, shared.frozen, prompts, key)

    lanes = over(layout, one)

    def evaluate(policies: Params, hparams: dict[str, Any], shared: Shared, keys: Key, prompts):
        return lanes((policies, hparams, keys), shared, prompts)

    return evaluate


def compile_program(
    pipeline: Pipeline, layout: Layout, hparams: dict[str, Any], shared: Shared, keys: Key
) -> Program:
    """Compiles what the lanes of a group run, for arguments of these shapes."""
    prompts = jax.device_put(pipeline.task.train_prompts)
    asked = first_rows(pipeline.task.eval_prompts, pipeline.config.eval.num_prompts)
    asked = jax.device_put(asked)
    live, count = jnp.ones(layout.lanes, bool), jnp.asarray(0, jnp.int32)
    first, seconds = compile_timed(make_first(pipeline, layout), hparams, shared, keys)
    states = jax.eval_shape(make_first(pipeline, layout), hparams, shared, keys)
    advance, more = compile_timed(
        make_advance(pipeline, layout), states, hparams, shared, prompts, live, count, donate=True
    )
    seconds += more
    policies = states.params["policy"]
    evaluate, more = compile_timed(
        make_evaluation(pipeline, layout), policies, hparams, shared, keys, asked
    )
    return Program(
        layout=layout,
        init=first,
        advance=lambda states, hparams, shared, live, count: advance(
            states, hparams, shared, prompts, live, count
        ),
        evaluate=lambda policies, hparams, shared, keys: evaluate(
            policies, hparams, shared, keys, asked
        ),
        seconds=seconds + more,
        bytes=needed_bytes(advance),
    )


def needed_bytes(compiled: Any) -> int:
    """Memory a compiled program needs while it runs, as the compiler estimates it; 0 if unknown."""
    found = compiled.memory_analysis()
    if found is None:
        return 0
    parts = ("argument_size", "output_size", "temp_size")
    total = sum(int(getattr(found, f"{part}_in_bytes")) for part in parts)
    return total - int(found.alias_size_in_bytes)
