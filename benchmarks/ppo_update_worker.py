"""Does our PPO updates when told to; the lines it reads and writes are those of `turns.Worker`.

One update of one run, the program of `experiments.rlhf`; or with `lanes` one update of each lane,
the program of a sweep.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks.ppo_update_work import Work
from rlhf_jax import runtime
from rlhf_jax.config import RunConfig


def single(pipeline: Any, frozen: Any) -> tuple[Callable[[], None], float, Any]:
    """One run: what does an update, seconds that compilation took, and the compiled program."""
    import jax
    import jax.numpy as jnp

    from rlhf_jax.config import split_dynamic
    from rlhf_jax.train.loop import compile_timed, to_numbers
    from rlhf_jax.train.tuning import make_algorithm, make_init

    config = pipeline.config
    init = jax.jit(lambda frozen: make_init(config)(config, frozen, pipeline.key))
    state = jax.tree.map(jnp.copy, init(frozen))
    rest = (jax.device_put(pipeline.task.train_prompts), frozen, split_dynamic(config)[1])
    step, seconds = compile_timed(make_algorithm(pipeline).train_step, state, *rest, donate=True)
    held = [state]

    def update() -> None:
        state, metrics = step(held[0], *rest)
        to_numbers(metrics)
        held[0] = state

    return update, seconds, step


def lanes(pipeline: Any, frozen: Any, count: int, strategy: str):
    """So many lanes of a sweep: what does an update of each, compile seconds, and the program."""
    import jax
    import jax.numpy as jnp

    from rlhf_jax.sweep.lanes import (
        Shared,
        make_advance,
        make_first,
        stacked_keys,
        stacked_numbers,
    )
    from rlhf_jax.sweep.layout import Layout
    from rlhf_jax.train.loop import compile_timed

    layout = Layout(strategy=strategy, lanes=count, shared=True, rows=1)
    hparams, keys = stacked_numbers([pipeline.config] * count), stacked_keys(range(count))
    shared = Shared(frozen=frozen, tables=None)
    states = jax.jit(make_first(pipeline, layout))(hparams, shared, keys)
    prompts = jax.device_put(pipeline.task.train_prompts)
    rest = (hparams, shared, prompts, jnp.ones(count, bool), jnp.asarray(1, jnp.int32))
    advance = make_advance(pipeline, layout)
    step, seconds = compile_timed(advance, states, *rest, donate=True)
    held = [states]

    def update() -> None:
        states, metrics = step(held[0], *rest)
        jax.device_get(metrics)
        held[0] = states

    return update, seconds, step


def xla_flops(compiled: Any) -> float | None:
    """As the compiler counts them: bodies of loops once. None where it does not say."""
    found = compiled.cost_analysis()
    return None if not found else float(found.get("flops", 0.0))


def watched() -> list[float]:
    """Fills with the seconds XLA takes over each program: to compile it, or load it from a cache.

    What is left of a compilation is tracing and lowering.
    """
    import jax

    found: list[float] = []

    def keep(event: str, seconds: float, **_: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(keep)
    return found


def timed(work: Callable[[], None]) -> float:
    """Seconds."""
    start = time.monotonic()
    work()
    return time.monotonic() - start


def main() -> None:
    """Compiles once, then does an update for each `again` that comes."""
    given = json.loads(sys.stdin.readline())
    run = RunConfig(device=given["device"], matmul_precision=given["matmul_precision"])
    runtime.setup(run)
    kind = runtime.connect(run)
    from benchmarks.ceiling import matmul_gflops
    from benchmarks.ppo_update_setup import frozen_of, pipeline_of
    from rlhf_jax.io.run_dir import run_facts
    from rlhf_jax.sweep.workers import peak_memory

    pipeline = pipeline_of(Work(**given["work"]), run, given["dtype"])
    frozen = frozen_of(pipeline)
    count, in_xla = given.get("lanes"), watched()
    made = lanes(pipeline, frozen, count, given["strategy"]) if count else single(pipeline, frozen)
    (update, compile_seconds, program), xla_seconds = made, in_xla[-1]
    warm_up = timed(update)
    print("ready", flush=True)
    for line in sys.stdin:
        match line.strip():
            case "facts":
                facts = {
                    "compile_seconds": compile_seconds,
                    "xla_seconds": xla_seconds,
                    "first_update_seconds": warm_up,
                    "xla_flops": xla_flops(program),
                    "peak_memory_bytes": peak_memory(),
                    "device_kind": kind,
                }
                print(json.dumps(facts | {"run": run_facts()}), flush=True)
            case "ceiling":
                print(matmul_gflops(given["dtype"]), flush=True)
            case _:
                print(timed(update), flush=True)


if __name__ == "__main__":
    main()
