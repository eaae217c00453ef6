"""Regret of PPO on every shipped gridworld, by exact dynamic programming: 16 seeds as lanes.

python -m benchmarks.gridworld                   # minutes on two free cores
python -m benchmarks.gridworld --only coins

The settings are those of `python -m experiments.ppo env=gridworld`, the same for all layouts. They
were chosen on seeds 0 to 11; the seeds here are others. A seed passes if the regret of its policy,
with the dice it still rolls, is below 1 % of V* at the start. Writes
benchmarks/results/gridworld.json and the table of docs/classic.md.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from benchmarks.classic_runs import joined, submit, workers
from benchmarks.markdown import put_table
from benchmarks.records import RESULTS, ROOT, stored_in
from rlhf_jax.envs.layout import load_layout, shipped
from rlhf_jax.io.run_dir import write_json
from rlhf_jax.machine import cores

SEEDS, FIRST = 16, 1000
BOUND = 0.01  # of the regret, as a share of V*
RECORD = RESULTS / "gridworld.json"
PAGE = ROOT / "docs" / "classic.md"


def verdict(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """What the runs of one layout found."""
    regret = joined(parts, "exact/regret_share")
    return {
        "regret_share": regret,
        "below": int(np.sum(np.asarray(regret) < BOUND)),
        "value_error": joined(parts, "exact/value_error"),
        "value_error_first": [x for part in parts for x in part["first"]["exact/value_error"]],
        "cpu_seconds": sum(part["spent"]["cpu"] for part in parts),
        "wall_seconds": max(part["spent"]["wall"] for part in parts),
        "config_hash": [part["config_hash"] for part in parts],
    }


def line(name: str, found: dict[str, Any]) -> list[str]:
    """A row of the table."""
    regret, error = np.asarray(found["regret_share"]), np.median(found["value_error"])
    first = np.median(found["value_error_first"])
    return [
        f"`{name}`",
        str(load_layout(name).size),
        f"{found['below']} of {len(regret)}",
        f"{100 * np.median(regret):.2f} %",
        f"{100 * np.max(regret):.2f} %",
        f"{first:.2f} to {error:.3f}",
        f"{found['cpu_seconds'] / len(regret):.1f} s",
    ]


HEAD = [
    "layout",
    "states",
    "seeds below 1 %",
    "median regret",
    "worst regret",
    "value error, first update to last",
    "CPU time a seed",
]


def main() -> None:
    """Measures, prints a table and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=shipped())
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--workers", type=int, default=cores())
    given = parser.parse_args()
    names = [given.only] if given.only else shipped()
    found = stored_in(RECORD)
    with workers(given.workers) as pool:
        each = {
            name: submit(pool, [f"env.layout={name}"], given.seeds, given.workers, FIRST)
            for name in names
        }
        for name, jobs in each.items():
            found[name] = verdict([job.result() for job in jobs])
            print(" | ".join(line(name, found[name])), flush=True)
            write_json(RECORD, found)
    rows = [line(name, found[name]) for name in shipped() if name in found]
    put_table(PAGE, "gridworld", HEAD, rows)


if __name__ == "__main__":
    main()
