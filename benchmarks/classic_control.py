"""CleanRL's published results on classic control, at its settings, held to margins fixed before.

python -m benchmarks.classic_control                        # about ten minutes on two free cores
python -m benchmarks.classic_control --only CartPole-v1

500,000 steps, 32 seeds as lanes, in a worker process a core with one thread each (more would let
XLA's pool starve). The settings are those of configs/recipe/cleanrl.yaml. Writes
benchmarks/results/classic_control.json.

Source: the table of CleanRL's ppo.py (docs/rl-algorithms/ppo.md), mean of the last 100 episodes.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from rlhf_jax.config import ClassicConfig, GymnaxConfig, RunConfig
from rlhf_jax.io.run_dir import write_json
from rlhf_jax.report.stats import estimate

SEEDS = 32
RECIPE = Path(__file__).parents[1] / "configs" / "recipe" / "cleanrl.yaml"
RESULTS = Path(__file__).parent / "results" / "classic_control.json"
# Published mean, and how far the interval of our IQM may reach from it. Fixed before any run.
PUBLISHED = {"CartPole-v1": (490.0, 12.0), "Acrobot-v1": (-86.0, 5.0), "MountainCar-v0": (-200, 0)}


def settings(name: str, seeds: int) -> ClassicConfig:
    """The settings of one environment."""
    given: Any = OmegaConf.to_container(OmegaConf.load(RECIPE))
    config = ClassicConfig(seeds=seeds, env=GymnaxConfig(name=name), frames=10)
    parts = {k: dataclasses.replace(getattr(config, k), **v) for k, v in given.items()}
    return dataclasses.replace(config, **parts, run=RunConfig(progress=False, threads=1))


def measure(name: str, seeds: int) -> dict[str, Any]:
    """Trains every seed; runs in a worker of its own."""
    from rlhf_jax import runtime

    config = settings(name, seeds)
    runtime.setup(config.run)
    from rlhf_jax.train.classic_run import run_classic

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        summary, _ = run_classic(config, Path(folder) / "run")
    return {
        "returns": summary["final"]["episode/return"],
        "seconds": time.monotonic() - start,
        "steps_per_second": summary["steps_per_second"],
        "config_hash": summary["config_hash"],
    }


def verdict(name: str, returns: list[float]) -> dict[str, Any]:
    """Whether the 90 % interval of the IQM lies within the margin: two one-sided tests at 5 %."""
    center, margin = PUBLISHED[name]
    found = estimate(np.asarray(returns)[:, None], level=0.90)
    inside = found.low >= center - margin and found.high <= center + margin
    return {"iqm": found.value, "low": found.low, "high": found.high, "equivalent": bool(inside)}


def main() -> None:
    """Measures, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(PUBLISHED))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    given = parser.parse_args()
    names = [given.only] if given.only else list(PUBLISHED)
    spawn = multiprocessing.get_context("spawn")
    found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    with ProcessPoolExecutor(given.workers, mp_context=spawn) as pool:
        jobs = {name: pool.submit(measure, name, given.seeds) for name in names}
        for name, job in jobs.items():
            result = job.result()
            result |= verdict(name, result["returns"])
            found[name] = result
            center, margin = PUBLISHED[name]
            print(
                f"{name}: IQM {result['iqm']:.1f} [{result['low']:.1f}, {result['high']:.1f}] of "
                f"{len(result['returns'])} seeds; published {center:g}, margin {margin:g}: "
                f"{'equivalent' if result['equivalent'] else 'NOT equivalent'}; "
                f"{result['seconds']:.0f} s",
                flush=True,
            )
    write_json(RESULTS, found)


if __name__ == "__main__":
    main()
