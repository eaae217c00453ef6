"""The host loop: advance a compiled program, log, check health, checkpoint, resume."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from rlhf_jax.config import RunConfig, UserError
from rlhf_jax.io.checkpoint import CheckpointStore
from rlhf_jax.io.console import note, stage_progress, waiting
from rlhf_jax.io.run_dir import RunDir, flat
from rlhf_jax.io.sinks import Sink, truncate_after
from rlhf_jax.io.watchdog import Watchdog
from rlhf_jax.train.health import check_finite
from rlhf_jax.train.state import TrainState
from rlhf_jax.types import Array, Metrics

TWICE = 1.0  # seconds within which two requests to stop are one
STOPPING = b"\nstopping after this update; another request stops at once\n"


class Interrupted(UserError):
    """The user asked to stop; the state is on disk."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training as the loop sees it."""

    name: str
    total: int  # updates
    chunk: int  # updates between log rows
    save_every: int  # updates between checkpoints
    settings: Mapping[str, Any]  # everything the result depends on; a checkpoint is only for these
    advance: Callable[[TrainState, int], tuple[TrainState, Mapping[str, Any]]]
    evaluate: Callable[[TrainState], Mapping[str, Any]] | None = None  # about ten times a stage
    shown: tuple[str, ...] = ("loss",)  # metrics beside the progress bar
    check: Callable[[Mapping[str, float]], None] = lambda metrics: None


@dataclass(frozen=True, kw_only=True)
class Session:
    """What the stages of one run share."""

    run_dir: RunDir
    run: RunConfig
    sink: Sink
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)  # for summary.json

    def guard(
        self, call: str, saved: Callable[[], str] = lambda: ""
    ) -> AbstractContextManager[None]:
        """Watches a compiled call (or a compilation) that may never return."""
        return Watchdog(self.run.stall_seconds, saved).guard(call)

    @contextmanager
    def busy(self, call: str) -> Iterator[None]:
        """`guard` of a call outside a stage's loop, which a terminal names while it runs."""
        with self.guard(call), waiting(call, self.run.progress):
            yield


def repeat(step: Callable[..., tuple[TrainState, Metrics]]) -> Callable[..., Any]:
    """`(state, data, hparams, count)` runs `step` `count` times; metrics are the means.

    The count is traced, so a shorter last chunk is not another program.
    """

    step = jax.jit(step)  # else traced for its shapes and again in the loop

    def repeated(state: TrainState, data: Any, hparams: dict, count: Array):
        _, shapes = jax.eval_shape(step, state, data, hparams)
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def body(_: Array, carry: tuple[TrainState, Metrics]):
            state, metrics = step(carry[0], data, hparams)
            return state, jax.tree.map(jnp.add, carry[1], metrics)

        state, totals = lax.fori_loop(0, count, body, (state, zeros))
        return state, jax.tree.map(lambda x: x / count.astype(x.dtype), totals)

    return repeated


def compile_timed(f: Callable[..., Any], *args: Any, donate: bool = False) -> tuple[Any, float]:
    """Compiles `f` for these arguments ahead of time; returns it and the seconds it took."""
    start = time.monotonic()
    compiled = jax.jit(f, donate_argnums=(0,) if donate else ()).lower(*args).compile()
    return compiled, time.monotonic() - start


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collects the first Ctrl-C or TERM, so that an update ends before the run does.

    A second one stops at once, but not within a second: programs around this one may pass on what
    a terminal has sent already.
    """
    asked: list[int] = []
    first = 0.0

    def handler(number: int, frame: Any) -> None:
        nonlocal first
        if asked and time.monotonic() - first > TWICE:
            raise KeyboardInterrupt
        if not asked:
            first = time.monotonic()
            asked.append(number)
            os.write(2, STOPPING)  # `print` may have been interrupted itself

    old = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            old[number] = signal.signal(number, handler)
    except ValueError:  # not in the main thread: the caller keeps its own handlers
        pass
    try:
        yield asked
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)


def run_stage(session: Session, stage: Stage, state: TrainState) -> TrainState:
    """Runs a stage from its newest checkpoint, or from `state`, to its end."""
    store = CheckpointStore(
        session.run_dir.checkpoints / "state" / stage.name, session.run.keep_checkpoints
    )
    try:
        state, before = restore(session, stage, store, state)
        return advance_to_end(session, stage, store, state, before)
    finally:
        store.close()


def restore(
    session: Session, stage: Stage, store: CheckpointStore, state: TrainState
) -> tuple[TrainState, float]:
    """The newest checkpointed state, and the seconds spent before it; logged rows match it."""
    latest = store.latest()
    if latest is None:
        truncate_after(session.run_dir.metrics, stage.name, 0)
        return state, 0.0
    state, metadata = store.restore(latest, state)
    check_settings(stage, metadata["settings"])
    if session.run.progress and latest < stage.total:
        note(f"{stage.name}: goes on after update {latest} of {stage.total}")
    truncate_after(session.run_dir.metrics, stage.name, latest)
    return jax.device_put(state), float(metadata["seconds"])


def check_settings(stage: Stage, saved: Mapping[str, Any]) -> None:
    """Refuses to go on from a checkpoint that other settings made."""
    listed = differences(saved, stage.settings)
    if listed:
        raise UserError(f"resume: stage {stage.name} was begun with other settings ({listed})")


def differences(saved: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Which settings are not what they were, as text; empty if all are."""
    old, new = flat(saved), flat(json.loads(json.dumps(settings)))
    changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
    return ", ".join(f"{k}: {old.get(k)} then, {new.get(k)} now" for k in changed[:5])


def advance_to_end(
    session: Session, stage: Stage, store: CheckpointStore, state: TrainState, before: float
) -> TrainState:
    """The loop itself."""
    start, done = time.monotonic() - before, int(state.update)
    saved = lambda: f"Last checkpoint: update {store.latest()} in {store.directory}."
    progress = stage_progress(stage.name, stage.total, enabled=session.run.progress)
    with stop_requests() as asked, progress as bar:
        while done < stage.total:
            count = min(stage.chunk, stage.total - done)
            with session.guard(f"{stage.name} update {done + 1}", saved):
                state, metrics = stage.advance(state, count)
                metrics = to_numbers({**metrics, "val/skipped": state.skipped})
                done += count
                if stage.evaluate and crosses_tenth(done, count, stage.total):
                    metrics |= to_numbers(stage.evaluate(state))
            seconds = time.monotonic() - start
            place = {"stage": stage.name, "update": done, "seconds": seconds}
            session.sink.log(place | metrics)
            bar.update(done, {k: metrics[k] for k in stage.shown if k in metrics})
            check_finite(stage.name, int(state.skipped_in_a_row), session.run.max_skipped)
            stage.check(metrics)
            if done % stage.save_every < count or done == stage.total or asked:
                store.save(done, state, {"seconds": seconds, "settings": stage.settings})
            if asked:
                where = f"{stage.name} stopped after update {done} of {stage.total}"
                raise Interrupted(f"{where}; go on with resume={session.run_dir.path}")
    numbers = {"seconds": time.monotonic() - start, "skipped": int(state.skipped)}
    session.stages.setdefault(stage.name, {}).update(numbers)
    return state


def crosses_tenth(done: int, count: int, total: int) -> bool:
    """Whether the last `count` updates reached another tenth of the stage, or its end."""
    return done == total or (done * 10) // total > ((done - count) * 10) // total


def to_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Device scalars as Python numbers, in one transfer."""
    return {k: float(v) for k, v in jax.device_get(dict(metrics)).items()}
