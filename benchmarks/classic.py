"""Environment steps a second in training, beside rejax 0.1.3 at equal settings, in one run.

benchmarks/peers/setup.sh rejax      # once: rejax and gymnax < 1, apart from ours
python -m benchmarks.classic

Both compile first, then take turns, and while one trains the other waits. The median of the ratios
over rounds is what is claimed. Two rows are of one process and one thread each; the third
is of all cores, each side the way it is run by default: ours a process a core with its share of
the seeds, rejax one process. Equal are the environment, the network (two separate ones of 64, 64
tanh), copies, steps, epochs, minibatches and every number of the loss. Not equal: rejax has two
optimizers and clips gradients entry by entry, ours has one and clips by the norm; ours also returns
the metrics of every update, rejax none. Writes benchmarks/results/classic.json and the table in
docs/classic.md.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from statistics import median
from typing import Any, NamedTuple

from benchmarks.classic_runs import halves
from benchmarks.markdown import put_table
from benchmarks.records import RESULTS, ROOT, as_command
from benchmarks.turns import (
    CORES,
    ONE_THREAD,
    Worker,
    peer_python,
    positive,
    ratios,
    spread,
    together,
)
from rlhf_jax.io.run_dir import write_json

PINS = ROOT / "benchmarks" / "peers" / "rejax.txt"
CPU = {"JAX_PLATFORMS": "cpu"}
RECORD = RESULTS / "classic.json"
SETTINGS: dict[str, Any] = {
    "env": "CartPole-v1",
    "total_steps": 131072,
    "num_envs": 16,
    "num_steps": 128,
    "epochs": 4,
    "minibatches": 4,
    "learning_rate": 3e-4,
    "max_grad_norm": 0.5,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_eps": 0.2,
    "vf_coef": 0.5,
    "entropy_coef": 0.01,
    "width": 64,
}


class Row(NamedTuple):
    """What is compared."""

    seeds: int
    cores: int  # that ours uses: a process and a thread on each; rejax is one process


def rejax(given: dict[str, Any]) -> Worker:
    """The peer, ready, with one thread.

    With a pool as wide as a machine of two cores its 16 lanes wait for ever, and with four threads
    there they took longer: 144 thousand steps a second, not 165.
    """
    command = [peer_python(PINS), str(PINS.with_name("rejax_worker.py"))]
    return Worker(command, given, ONE_THREAD | CPU).ready()


def ours(given: dict[str, Any], cores: int) -> list[Worker]:
    """A process a core with its share of the seeds, as experiments.ppo trains them, ready."""
    command = [sys.executable, "-m", "benchmarks.classic_worker"]
    blocks = halves(given["seeds"], cores)
    started = [Worker(command, given | {"block": block}, ONE_THREAD | CPU) for block in blocks]
    return [worker.ready() for worker in started]


def compare(row: Row, repeats: int) -> dict[str, Any]:
    """Both by turns."""
    given = SETTINGS | {"seeds": row.seeds}
    with ExitStack() as stack:
        theirs, workers = rejax(given), ours(given, row.cores)
        for worker in [theirs, *workers]:
            stack.callback(worker.close)
        pairs = [(together(workers), together([theirs])) for _ in range(repeats)]
        facts = [worker.facts() for worker in workers]
    steps = SETTINGS["total_steps"] * row.seeds
    return {
        "seeds": row.seeds,
        "cores": row.cores,
        "ours": [steps / a for a, _ in pairs],
        "rejax": [steps / b for _, b in pairs],
        "ratio": ratios([b for _, b in pairs], [a for a, _ in pairs]),
        "facts": facts,
    }


def step_flops(settings: Mapping[str, Any]) -> int:
    """Floating-point operations of the matrix products that a step of the environment needs.

    Policy and value function are perceptrons of two hidden layers. One pass of both to act; in
    each epoch one forward and a backward that costs two.

    >>> step_flops({"width": 64, "epochs": 4})
    231296
    """
    inputs, actions, width = 4, 2, settings["width"]
    passed = sum(2 * width * (inputs + width + outputs) for outputs in (actions, 1))
    return (1 + 3 * settings["epochs"]) * passed


def line(found: dict[str, Any]) -> list[str]:
    """A row of the table."""
    speed = lambda name: f"{median(found[name]) / 1000:.0f}"
    rates = speed("ours"), speed("rejax")
    cells = [str(found["seeds"]), str(found["cores"]), *rates, spread(found["ratio"])]
    ceiling = sum(fact["ceiling_gflops"] for fact in found["facts"])
    reached = step_flops(SETTINGS) * median(found["ours"]) / 1e9
    cells += [TARGETS.get((found["seeds"], found["cores"]), "")]
    cells += [f"{reached:.0f} ({100 * reached / ceiling:.0f} %)"]
    cells += [f"{median(found['ours']) / median(found['rejax']) * ceiling / reached:.2f}"]
    cells += [f"{max(fact['compile_seconds'] for fact in found['facts']):.1f}"]
    return [*cells, f"{max(fact['peak_memory_bytes'] for fact in found['facts']) / 2**30:.2f}"]


HEAD = [
    "seeds",
    "cores",
    "rlhf_jax, thousand steps/s",
    "rejax 0.1.3, thousand steps/s",
    "ratio (range)",
    "target",
    "ours, GFLOP/s (of the ceiling)",
    "ratio at the ceiling",
    "compile, s",
    "peak memory of a process, GiB",
]
TARGETS = {(16, 1): "2", (16, 2): "2"}


def main() -> None:
    """Measures, prints the pairs and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=positive, default=9)
    given = parser.parse_args()
    rows = []
    for row in (Row(1, 1), Row(16, 1), Row(16, CORES)):
        rows.append(compare(row, given.repeats))
        print(" | ".join(line(rows[-1])), flush=True)
    write_json(RECORD, {"settings": SETTINGS, "rows": rows})
    put_table(ROOT / "docs" / "classic.md", "speed", HEAD, [line(row) for row in rows])


if __name__ == "__main__":
    as_command(main)
