"""CleanRL's published results on classic control, at its settings, held to margins fixed before.

python -m benchmarks.classic_control                        # under ten minutes on two free cores
python -m benchmarks.classic_control --only CartPole-v1

500,000 steps, 32 seeds as lanes, half of them in a worker process a core with one thread each. The
settings are those of configs/recipe/cleanrl.yaml. Writes benchmarks/results/classic_control.json
and the table in docs/classic.md.

Source: the table of CleanRL's ppo.py (docs/rl-algorithms/ppo.md), mean of the last 100 episodes.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np

from benchmarks.classic_runs import joined, submit, workers
from benchmarks.markdown import put_table
from benchmarks.records import RESULTS, ROOT, stored_in
from rlhf_jax.io.run_dir import run_facts, write_json
from rlhf_jax.machine import cores
from rlhf_jax.report.stats import estimate

SEEDS = 32
RECORD = RESULTS / "classic_control.json"
PAGE = ROOT / "docs" / "classic.md"
# Published mean, and how far the interval of our IQM may reach from it. Fixed before any run.
PUBLISHED = {"CartPole-v1": (490.0, 12.0), "Acrobot-v1": (-86.0, 5.0), "MountainCar-v0": (-200, 0)}


def verdict(name: str, returns: list[float]) -> dict[str, Any]:
    """Whether the 90 % interval of the IQM lies within the margin: two one-sided tests at 5 %.

    A margin of 0 asks more: every seed must have the published number.
    """
    center, margin = PUBLISHED[name]
    found = estimate(np.asarray(returns)[:, None], level=0.90)
    inside = found.low >= center - margin and found.high <= center + margin
    same = margin > 0 or all(x == center for x in returns)
    return {
        "iqm": found.value,
        "low": found.low,
        "high": found.high,
        "equivalent": bool(inside and same),
    }


def result(name: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What the seeds of one environment found."""
    returns = joined(parts, "episode/return")
    return verdict(name, returns) | {
        "returns": returns,
        "environment_steps": sum(part["environment_steps"] for part in parts),
        "cpu_seconds": sum(part["spent"]["cpu"] for part in parts),
        "wall_seconds": max(part["spent"]["wall"] for part in parts),
        "config_hash": [part["config_hash"] for part in parts],
        "config": parts[0]["config"],
    }


HEAD = [
    "environment",
    "published",
    "margin",
    "IQM of the seeds [90 % interval]",
    "lowest and highest seed",
    "seconds of a core",
    "",
]


def line(name: str, found: dict[str, Any]) -> list[str]:
    """A row of the table."""
    center, margin = PUBLISHED[name]
    low, high = min(found["returns"]), max(found["returns"])
    return [
        name,
        f"{center:g}",
        f"{margin:g}" if margin else "none: every seed",
        f"{found['iqm']:.1f} [{found['low']:.1f}, {found['high']:.1f}]",
        f"{low:.1f}, {high:.1f}",
        f"{found['cpu_seconds']:.0f}",
        "equivalent" if found["equivalent"] else "not equivalent",
    ]


def main() -> None:
    """Measures, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(PUBLISHED), nargs="*", default=list(PUBLISHED))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=cores())
    given = parser.parse_args()
    results = stored_in(RECORD) or {"environments": {}}
    found, start = results["environments"], time.monotonic()
    with workers(given.workers) as pool:
        run = lambda name: submit(
            pool, ["env=gymnax", f"env.name={name}", "recipe=cleanrl"], given.seeds, given.workers
        )
        for name, jobs in {name: run(name) for name in given.only}.items():
            found[name] = result(name, [job.result() for job in jobs])
            print(" | ".join(line(name, found[name])), flush=True)
            write_json(RECORD, results)
    spent = time.monotonic() - start
    print(f"{spent:.0f} s in all, {given.workers} workers")
    if set(given.only) == set(PUBLISHED):
        write_json(
            RECORD, results | {"seconds": spent, "workers": given.workers, "facts": run_facts()}
        )
    rows = [line(name, found[name]) for name in PUBLISHED if name in found]
    put_table(PAGE, "classic_control", HEAD, rows)


if __name__ == "__main__":
    main()
