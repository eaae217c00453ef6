"""Trains our PPO as benchmarks/peers/rejax_worker.py trains rejax's; also answers `facts`."""

from __future__ import annotations

import json
import sys
import time

from benchmarks.classic_runs import settings
from rlhf_jax import runtime

OURS = ("total_steps", "num_envs", "num_steps", "epochs", "minibatches", "gamma", "gae_lambda")
OURS += ("clip_eps", "vf_coef", "entropy_coef")


def main() -> None:
    """Compiles once, then trains anew for each line that comes."""
    given = json.loads(sys.stdin.readline())
    numbers = [f"ppo.{k}={given[k]}" for k in OURS]
    optim = [f"optim.{k}={given[k]}" for k in ("learning_rate", "max_grad_norm")]
    fixed = ["optim.schedule=constant", "ppo.whiten_variance=biased", "ppo.value_clip_eps=0.2"]
    where = ["env=gymnax", f"env.name={given['env']}", f"network.width={given['width']}"]
    config = settings("recipe=cleanrl", *where, *numbers, *optim, *fixed, *given["block"])
    runtime.setup(config.run)
    kind = runtime.connect(config.run)
    import jax
    import jax.numpy as jnp

    from benchmarks.ceiling import matmul_gflops
    from rlhf_jax.io.run_dir import run_facts
    from rlhf_jax.sweep.workers import peak_memory
    from rlhf_jax.train.classic_lanes import make_lanes

    lanes, rows = make_lanes(config), config.ppo.updates
    count = jnp.int32(rows)

    def whole(hparams: dict):
        states = jax.vmap(lanes.classic.init)(hparams)
        return lanes.advance(rows)(states, hparams, count)

    start = time.monotonic()
    train = jax.jit(whole).lower(lanes.hparams).compile()
    compile_seconds = time.monotonic() - start
    jax.block_until_ready(train(lanes.hparams))
    print("ready", flush=True)
    for line in sys.stdin:
        if line.strip() == "facts":
            facts = {
                "compile_seconds": compile_seconds,
                "peak_memory_bytes": peak_memory(),
                "ceiling_gflops": max(matmul_gflops() for _ in range(3)),
                "device_kind": kind,
            }
            print(json.dumps(facts | {"run": run_facts()}), flush=True)
            continue
        start = time.monotonic()
        jax.block_until_ready(train(lanes.hparams))
        print(time.monotonic() - start, flush=True)


if __name__ == "__main__":
    main()
