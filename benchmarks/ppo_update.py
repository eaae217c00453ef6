"""Seconds of one whole PPO update beside TRL 1.9.2's own PPOTrainer, same shapes, in one run.

    benchmarks/peers/setup.sh trl_ppo                       # once
    python -m benchmarks.ppo_update                         # all four sizes, about 45 minutes
    python -m benchmarks.ppo_update --sizes 64 128          # two of them; the others stay
    python -m benchmarks.ppo_update --dtype bfloat16        # both in bf16
    python -m benchmarks.ppo_update --draw                  # the tables anew, from the records

An update is rollout, scoring and learning: 64 episodes of 8 + 24 tokens, 4 epochs of 4 minibatches,
and value, reward and reference models of the policy's size. Four sides take turns: TRL (all cores);
our run as it is by default; our run on one thread; and 8 lanes of a sweep, 4 in each of two worker
processes with one thread each, whose time is divided by 8. A ratio is the median over
rounds. Writes benchmarks/results/ppo_update.json and three tables in benchmarks/README.md; in bf16
ppo_update_bfloat16.json and tables of its own.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import ppo_update_table
from benchmarks.ppo_update_work import SIZES, Work
from benchmarks.records import RESULTS, ROOT, as_command, stored_in
from benchmarks.settings import Settings, add_options, results_of, settings_of
from benchmarks.turns import (
    CORES,
    ONE_THREAD,
    TRL_PINS,
    Worker,
    others,
    peer_python,
    positive,
    ratios,
    together,
)
from rlhf_jax.io.run_dir import write_json
from rlhf_jax.machine import blocks

TRL = ROOT / "benchmarks" / "peers" / "trl_ppo_worker.py"
REPEATS = {"64": 31, "128": 15, "256": 5, "512": 3}
LANES = 8
MARKS = {Settings(): "ppo_update", Settings(dtype="bfloat16"): "ppo_update bfloat16"}  # of tables
CEILINGS = 5  # turns after which the ceiling of a process is measured; the highest counts


class Sides:
    """The processes that take turns over one size.

    Compilation is first timed from an empty cache, then, by a second process, from what the first
    one left there.
    """

    def __init__(self, work: Work, settings: Settings, cache: Path, stack: ExitStack):
        self.work, self.settings, self.stack = work, settings, stack
        self.cache = {"RLHF_JAX_CACHE": str(cache)}
        cold = self.ours({}).ready()
        self.cold = cold.facts()
        cold.close()
        self.default = self.ours({}).ready()
        self.one_thread = self.ours(ONE_THREAD).ready() if settings.device == "cpu" else None
        self.sweep = self.sweepers()

    def start(self, command: list[str], given: dict[str, Any], env: Mapping[str, str]) -> Worker:
        """A process that ends with the measurement."""
        worker = Worker(command, given, env)
        self.stack.callback(worker.close)
        return worker

    def ours(self, env: Mapping[str, str], **more: Any) -> Worker:
        """A worker of ours; it is not waited for."""
        command = [sys.executable, "-m", "benchmarks.ppo_update_worker"]
        return self.start(command, self.settings.given(self.work, **more), self.cache | dict(env))

    def sweepers(self) -> list[Worker]:
        """As the sweep does: on CPU a worker process a core, elsewhere all lanes side by side.

        The first compiles, the others find what it left.
        """
        if self.settings.device != "cpu":
            return [self.ours({}, lanes=LANES, strategy="vmap").ready()]
        shares = blocks(LANES, min(CORES, LANES))
        start = lambda share: self.ours(ONE_THREAD, lanes=len(share), strategy="map")
        return [start(share).ready() for share in shares]

    def trl(self, dtype: str) -> Worker:
        """TRL's trainer with all cores."""
        given = self.settings.given(self.work, threads=CORES) | {"dtype": dtype}
        return self.start([peer_python(TRL_PINS), str(TRL)], given, {}).ready()


def measure(work: Work, settings: Settings, repeats: int, peer: str | None) -> dict[str, Any]:
    """All sides by turns; `peer` is the type TRL computes in, None without it."""
    with tempfile.TemporaryDirectory() as cache, ExitStack() as stack:
        sides = Sides(work, settings, Path(cache), stack)
        trl = sides.trl(peer) if peer else None
        own = {"one_thread": sides.one_thread, "ours": sides.default, "trl": trl}
        workers = {k: v for k, v in own.items() if v is not None}
        seconds: dict[str, list[float]] = {k: [] for k in (*workers, "sweep")}
        ceilings: dict[str, list[float]] = {k: [] for k in workers}
        for turn in range(repeats):
            for name, worker in workers.items():
                seconds[name].append(worker.seconds())
            seconds["sweep"].append(together(sides.sweep) / LANES)
            for name, worker in workers.items() if turn < CEILINGS else ():
                ceilings[name].append(float(worker.ask("ceiling")))
        return described(work, seconds, ceilings, sides, workers)


def described(
    work: Work,
    seconds: dict[str, list[float]],
    ceilings: dict[str, list[float]],
    sides: Sides,
    workers: dict[str, Worker],
) -> dict[str, Any]:
    """What was found, with the facts beside it."""
    found = {
        "work": dataclasses.asdict(work),
        "seconds": seconds,
        "ceiling_gflops": ceilings,
        "facts": {k: worker.facts() for k, worker in workers.items()},
        "sweep_facts": [worker.facts() for worker in sides.sweep],
        "cold": sides.cold,
        "others": others([*workers.values(), *sides.sweep]),
    }
    if "trl" in seconds:
        names = [k for k in seconds if k != "trl"]
        found["ratio"] = {k: ratios(seconds["trl"], seconds[k]) for k in names}
    return found


def draw() -> None:
    """The tables of what has been measured."""
    for mark in MARKS.values():
        rows = stored_in(RESULTS / f"{mark.replace(' ', '_')}.json").get("sizes", {})
        if rows:
            ppo_update_table.write(rows, mark)
    ppo_update_table.write_short()


def main() -> None:
    """Measures the sizes asked for, and puts them beside those measured before."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--repeats", type=positive, help="turns of each side; default by size")
    parser.add_argument("--no-peer", action="store_true", help="ours alone")
    types = ("float32", "bfloat16")
    parser.add_argument("--peer-dtype", choices=types, help="TRL's; default: as ours")
    parser.add_argument("--draw", action="store_true", help="the tables again, nothing measured")
    add_options(parser)
    args = parser.parse_args()
    settings = settings_of(args)
    peer = None if args.no_peer else args.peer_dtype or settings.dtype
    if args.draw:
        draw()
        return
    usual = args.out is None and settings in MARKS and peer == settings.dtype
    name = MARKS.get(settings, "ppo_update").replace(" ", "_")
    out = results_of(args, name, usual=usual)
    for size in args.sizes:
        repeats = args.repeats or REPEATS[size]
        found = measure(SIZES[size], settings, repeats, peer)
        rows = ppo_update_table.merged(out, dataclasses.asdict(settings), size, found)
        write_json(out, {"settings": dataclasses.asdict(settings), "sizes": rows})
        print(" | ".join(ppo_update_table.line(found)), flush=True)
        print(f"others had of the cores: {found['others']}", flush=True)
        if usual:
            draw()


if __name__ == "__main__":
    as_command(main)
