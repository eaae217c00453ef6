"""Does vmapped training ever hang? 16 lanes of CartPole, 20 runs in a row, each under a limit.

python -m benchmarks.classic_lanes

On a CPU, programs over lanes can wait for ever in XLA's thread pool where it has few threads, and
experiments.ppo therefore gives it one (docs/classic.md). Each run here is a process of its own, as
a user starts it. Ends with an error if one run is not done in time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from statistics import median

from benchmarks.records import RESULTS
from rlhf_jax.io.run_dir import run_facts, write_json

RECORD = RESULTS / "classic_lanes.json"
RUN = ["env=cartpole", "seeds=16", "ppo.total_steps=65536", "run.progress=false"]


def run(limit: float) -> float | None:
    """Seconds of one run; None where the limit ended it."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        where = f"hydra.run.dir={folder}/run"
        command = [sys.executable, "-m", "experiments.ppo", *RUN, where]
        try:
            subprocess.run(command, check=True, timeout=limit, stdout=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return None
    return time.monotonic() - start


def main() -> None:
    """Runs, prints and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--limit", type=float, default=180.0, help="seconds of a run")
    given = parser.parse_args()
    seconds = []
    for i in range(given.runs):
        seconds.append(run(given.limit))
        print(f"run {i + 1} of {given.runs}: {seconds[-1] or 'NOT DONE'}", flush=True)
    done = [s for s in seconds if s is not None]
    print(
        f"{len(done)} of {given.runs} done; median {median(done):.1f} s, longest {max(done):.1f} s"
    )
    found = {"arguments": RUN, "limit": given.limit, "seconds": seconds, "facts": run_facts()}
    write_json(RECORD, found)
    sys.exit(len(done) < given.runs)


if __name__ == "__main__":
    main()
