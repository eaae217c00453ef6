"""Seconds of TRL's own PPO update in float32 and in bf16.

    benchmarks/peers/setup.sh trl_ppo                  # once
    python -m benchmarks.peer_types                    # d 128, 256 and 512, six minutes

bf16 is what TRL makes of `bf16=True`: mixed precision. Both have all cores and take turns. Writes
benchmarks/results/peer_types.json and a table in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from statistics import median
from typing import Any

from benchmarks.markdown import put_table
from benchmarks.ppo_update import TRL
from benchmarks.ppo_update_work import SIZES, Work
from benchmarks.records import PAGE, RESULTS, as_command, stored_in
from benchmarks.settings import Settings
from benchmarks.turns import CORES, TRL_PINS, Worker, peer_python, positive, ratios, spread
from rlhf_jax.io.run_dir import run_facts, write_json

TYPES = ("float32", "bfloat16")
HEAD = ["size", "TRL in float32, s", "in bf16, s", "float32 / bf16 (range)"]


def measure(work: Work, repeats: int) -> dict[str, Any]:
    """Both by turns."""
    with ExitStack() as stack:
        workers = {}
        for dtype in TYPES:
            given = Settings(dtype=dtype).given(work, threads=CORES)
            workers[dtype] = Worker([peer_python(TRL_PINS), str(TRL)], given, {})
            stack.callback(workers[dtype].close)
            workers[dtype].ready()
        rounds = [{k: worker.seconds() for k, worker in workers.items()} for _ in range(repeats)]
    seconds = {dtype: [one[dtype] for one in rounds] for dtype in TYPES}
    return {"seconds": seconds, "ratio": ratios(*seconds.values()), "run": run_facts()}


def line(size: str, found: dict[str, Any]) -> list[str]:
    """A row of the table.

    >>> ratio = {"median": 2.0, "least": 1.5, "most": 2.5}
    >>> found = {"seconds": {"float32": [4.0], "bfloat16": [2.0]}, "ratio": ratio}
    >>> line("64", found)[1:]
    ['4', '2', '2.00 (1.50 to 2.50)']
    """
    times = [f"{median(found['seconds'][dtype]):.3g}" for dtype in TYPES]
    return [SIZES[size].name, *times, spread(found["ratio"])]


def main() -> None:
    """Measures the sizes asked for, and puts them beside those measured before."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=["128", "256", "512"])
    parser.add_argument("--repeats", type=positive, default=3)
    args = parser.parse_args()
    path = RESULTS / "peer_types.json"
    for size in args.sizes:
        rows = stored_in(path) | {size: measure(SIZES[size], args.repeats)}
        rows = {k: rows[k] for k in SIZES if k in rows}
        write_json(path, rows)
        print(" | ".join(line(size, rows[size])), flush=True)
        put_table(PAGE, "peer types", HEAD, [line(*row) for row in rows.items()])


if __name__ == "__main__":
    as_command(main)
