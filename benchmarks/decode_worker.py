"""Samples with our decoder when told to; the lines are those of `turns.Worker`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.ppo_update_work import Work
from rlhf_jax import runtime
from rlhf_jax.config import RunConfig


def sampler(
    work: Work, run: RunConfig, dtype: str, folder: Path
) -> tuple[Callable[[int], float], float, Callable[[], list[float]]]:
    """What samples and tells its seconds, seconds of compilation, and what gives the logits.

    Writes the model into `folder` for the peer.
    """
    import jax
    import numpy as np

    from benchmarks.decode_weights import write_folder
    from benchmarks.ppo_update_setup import pipeline_of
    from rlhf_jax.sampling.decode import generate
    from rlhf_jax.train.loop import compile_timed
    from rlhf_jax.types import Sequences

    pipeline = pipeline_of(work, run, dtype)
    config, model, special = pipeline.config, pipeline.model, pipeline.task.codec.special
    params = jax.jit(model.init)(pipeline.key)
    write_folder(folder, params, config.model, work.vocab)
    rows = pipeline.task.train_prompts.tokens[: work.episodes]
    prompts = jax.device_put(Sequences(tokens=rows, mask=np.ones(rows.shape, bool)))

    def draw(params: Any, prompts: Sequences, key: Any):
        settings = {"config": config.model, "sampling": config.sampling, "special": special}
        return generate(model, params, prompts, key, **settings)

    program, seconds = compile_timed(draw, params, prompts, jax.random.key(0))
    last = jax.jit(lambda params: model.apply(params, prompts.tokens, prompts.mask).logits[0, -1])

    def sample(number: int) -> float:
        start = time.monotonic()
        found = jax.device_get(program(params, prompts, jax.random.key(number)))
        took = time.monotonic() - start
        assert found.completion_mask.sum() == work.episodes * work.length
        return took

    sample(0)
    return sample, seconds, lambda: last(params)[special.eos :].tolist()


def main() -> None:
    """Gets ready, then samples once for each `again`."""
    given = json.loads(sys.stdin.readline())
    run = RunConfig(device=given["device"], matmul_precision=given["matmul_precision"])
    runtime.setup(run)
    kind = runtime.connect(run)
    from benchmarks.ceiling import matmul_gflops
    from rlhf_jax.io.run_dir import run_facts
    from rlhf_jax.sweep.workers import peak_memory

    made = sampler(Work(**given["work"]), run, given["dtype"], Path(given["folder"]))
    sample, compile_seconds, logits = made
    print("ready", flush=True)
    for number, line in enumerate(sys.stdin):
        match line.strip():
            case "facts":
                facts = {
                    "compile_seconds": compile_seconds,
                    "device_kind": kind,
                    "peak_memory_bytes": peak_memory(),
                    "ceiling_gflops": matmul_gflops(given["dtype"]),
                    "run": run_facts(),
                }
                print(json.dumps(facts), flush=True)
            case "logits":
                print(json.dumps(logits()), flush=True)
            case _:
                print(sample(number), flush=True)


if __name__ == "__main__":
    main()
