"""Times whole sweeps from an empty cache, and checks how often they compiled.

    python -m benchmarks.sweep ablation        # experiment=ablation, 72 runs
    python -m benchmarks.sweep grid            # the 216 runs of docs/sweeps.md
    python -m benchmarks.sweep grid --again    # once more with what the first left in the cache
    python -m benchmarks.sweep memory          # the arms of ablation, but the default run's model

Each is the command a user types, in a process of its own; the numbers are read from the records
it leaves. Writes benchmarks/results/sweep_NAME.json and prints a row of the table in the docs. A
group that compiled more than one program a worker is an error.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.records import RESULTS
from rlhf_jax.io.run_dir import run_facts, write_json

ARMS = ["model.value_head=separate,shared,shared_stop_gradient", "algo.clip_eps=0.1,0.4"]
ARMS += ["algo.kl_coef=0.0,0.1", "algo.kl_controller=fixed", "seed=range(6)", "stage_seed=0"]
SWEEPS = {
    "ablation": ["experiment=ablation"],
    "memory": [*ARMS, "algo.updates=4"],  # as much memory as 80 updates need
    "grid": [
        "experiment=small",
        "algo.clip_eps=0.1,0.2,0.4",
        "algo.kl_coef=0.0,0.05,0.2",
        "model.value_head=shared,shared_stop_gradient,separate",
        "seed=range(8)",
    ],
}


def run(overrides: list[str], folder: Path, cache: Path) -> dict[str, Any]:
    """One sweep into `folder`: seconds by the clock, imports and report included, and memory."""
    command = [sys.executable, "-m", "experiments.rlhf", "-m", *overrides]
    start = time.monotonic()
    settings = os.environ | {"RLHF_JAX_CACHE": str(cache)}
    process = subprocess.Popen([*command, f"hydra.sweep.dir={folder}"], env=settings)
    peak = None
    while process.poll() is None:
        peak = most_memory(process.pid) or peak
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"{shlex.join(command)} ended with status {process.returncode}")
    return {"seconds": time.monotonic() - start, "leader_peak_memory_bytes": peak}


def most_memory(pid: int) -> int | None:
    """The most bytes a running process has held, None where the system does not say.

    >>> most_memory(-1) is None
    True
    """
    path = Path(f"/proc/{pid}/status")
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", path.read_text())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def measure(folder: Path, clock: dict[str, Any]) -> dict[str, Any]:
    """What the records of a sweep say, beside what was seen of its first process."""
    sweep = json.loads((folder / "sweep.json").read_text())
    summaries = [json.loads(p.read_text()) for p in sorted(folder.glob("*/summary.json"))]
    groups = sweep["groups"]
    return {
        **clock,
        "runs": len(summaries),
        "statuses": dict(Counter(summary["status"] for summary in summaries)),
        "groups": groups,
        "compiles": sum(group["compiles"] for group in groups),
        "compile_seconds": sum(group["compile_seconds"] for group in groups),
        "peak_memory_bytes_per_process": max(group["peak_memory_bytes"] for group in groups),
        "processes": max(group["workers"] for group in groups),
    }


def most_bytes(found: Mapping[str, Any]) -> int:
    """At most so many bytes were held at once: by the workers, and by the process that led them.

    >>> held = {"peak_memory_bytes_per_process": 5, "leader_peak_memory_bytes": 1}
    >>> most_bytes(held | {"processes": 2})
    11
    """
    workers = found["peak_memory_bytes_per_process"] * found["processes"]
    return workers + (found["leader_peak_memory_bytes"] or 0)


def check(found: dict[str, Any]) -> None:
    """Exits if a run is missing, or a group compiled more often than once a worker."""
    for group in found["groups"]:
        if group["compiles"] > group["workers"]:
            sys.exit(
                f"group {group['id']}: {group['compiles']} compiles, {group['workers']} workers"
            )
    if set(found["statuses"]) != {"finished"}:
        sys.exit(f"not every run finished: {found['statuses']}")


def row(name: str, found: dict[str, Any]) -> str:
    """Of the table in docs/sweeps.md."""
    memory = found["peak_memory_bytes_per_process"] / 2**30
    first = (most_bytes(found) / 2**30) - memory * found["processes"]
    cells = [
        f"`{name}`",
        str(found["runs"]),
        f"{found['seconds'] / 60:.1f}",
        f"{len(found['groups'])} groups, {found['compiles']} compiles",
        f"{found['compile_seconds']:.0f}",
        f"{found['processes']} x {memory:.1f} GiB, and {first:.1f}",
        f"{found['seconds'] * found['processes'] / found['runs']:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Runs one sweep, cold, and if asked again with a warm cache."""
    parser = argparse.ArgumentParser(description="Times whole sweeps from an empty cache.")
    parser.add_argument("name", choices=SWEEPS)
    parser.add_argument("--again", action="store_true", help="a second time, from a warm cache")
    parser.add_argument("--keep", type=Path, help="directory for the runs; default: thrown away")
    chosen = parser.parse_args()
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        root = chosen.keep or Path(scratch)
        for kind in ("cold", "warm") if chosen.again else ("cold",):
            folder = root / f"{chosen.name}_{kind}"
            clock = run(SWEEPS[chosen.name], folder, Path(scratch) / "cache")
            found[kind] = measure(folder, clock)
            check(found[kind])
            print(row(f"{chosen.name}, {kind} cache", found[kind]))
    RESULTS.mkdir(exist_ok=True)
    facts = run_facts()
    write_json(RESULTS / f"sweep_{chosen.name}.json", {"facts": facts, **found})


if __name__ == "__main__":
    main()
