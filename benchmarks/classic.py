"""Environment steps a second in training, beside rejax 0.1.3 at equal settings, in one run.

tests/parity/setup.sh benchmarks/peers/rejax.txt      # once: rejax and gymnax < 1, apart from ours
python -m benchmarks.classic

One process each, one thread each; both compile first, then take turns, and while one trains the
other waits. The median of the ratios of neighbouring turns is what is claimed. Equal are the
environment, the network (two separate ones of 64, 64 tanh), copies, steps, epochs, minibatches and
every number of the loss. Not equal: rejax has two optimizers and clips gradients entry by entry,
ours has one and clips by the norm; ours also returns the metrics of every update, rejax none.
Writes benchmarks/results/classic.json and the table in docs/classic.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.markdown import put_table
from rlhf_jax.config import UserError
from rlhf_jax.io.run_dir import write_json

ROOT = Path(__file__).parents[1]
PINS = ROOT / "benchmarks" / "peers" / "rejax.txt"
RESULTS = Path(__file__).parent / "results" / "classic.json"
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


class Worker:
    """A process that trains when it is told to."""

    def __init__(self, command: list[str], given: dict[str, Any]):
        kept = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTHONPATH")}
        quiet = {"NPROC": "1", "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu"}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, env=kept | quiet, cwd=ROOT, **pipes)
        if self.ask(json.dumps(given)) != "ready":
            raise UserError(f"{' '.join(command)}: did not start")

    def ask(self, line: str) -> str:
        """Sends a line; the line that comes back."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def seconds(self) -> float:
        """Of one training."""
        return float(self.ask("again"))

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def peer_python() -> str:
    """The interpreter of rejax's environment.

    Raises:
      UserError: it is not there, or has other pins.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("RLHF_JAX_PEERS") or Path(cache, "rlhf_jax", "peers")) / "rejax"
    made = folder / "pins.txt"
    if not made.exists() or made.read_text() != PINS.read_text():
        where = PINS.relative_to(ROOT)
        raise UserError(f"{folder} is missing or old: run tests/parity/setup.sh {where}")
    return str(folder / "bin" / "python")


def compare(seeds: int, repeats: int) -> dict[str, Any]:
    """Both by turns."""
    given = SETTINGS | {"seeds": seeds}
    theirs = Worker([peer_python(), str(PINS.with_name("rejax_worker.py"))], given)
    ours = Worker([sys.executable, "-m", "benchmarks.classic_worker"], given)
    pairs = [(ours.seconds(), theirs.seconds()) for _ in range(repeats)]
    ours.close()
    theirs.close()
    steps = SETTINGS["total_steps"] * seeds
    return {
        "seeds": seeds,
        "ours": [steps / a for a, _ in pairs],
        "rejax": [steps / b for _, b in pairs],
        "ratio": median(b / a for a, b in pairs),
    }


def line(found: dict[str, Any]) -> list[str]:
    """A row of the table."""
    speed = lambda name: f"{median(found[name]) / 1000:.0f}"
    ratio = [a / b for a, b in zip(found["ours"], found["rejax"])]
    spread = f"{found['ratio']:.2f} ({min(ratio):.2f} to {max(ratio):.2f})"
    return [str(found["seeds"]), speed("ours"), speed("rejax"), spread]


HEAD = ["seeds as lanes", "rlhf_jax, thousand steps/s", "rejax 0.1.3, thousand steps/s", "ratio"]


def main() -> None:
    """Measures, prints the pairs and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 16])
    given = parser.parse_args()
    rows = []
    for seeds in given.seeds:
        rows.append(compare(seeds, given.repeats))
        print(" | ".join(line(rows[-1])), flush=True)
    facts = {
        "machine": platform.processor() or platform.machine(),
        "python": sys.version.split()[0],
    }
    write_json(RESULTS, {"settings": SETTINGS, "rows": rows} | facts)
    put_table(ROOT / "docs" / "classic.md", "speed", HEAD, [line(row) for row in rows])


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
