"""Processes that take turns: ours and a pinned peer's, each at work while the other waits.

A worker reads one line of JSON, its settings, gets ready (imports, compilation, warm-up) and says
`ready`. Then it answers each line with a line: `again` with the seconds of one piece of work,
`facts` with JSON, and what else it knows. What a machine does to its speed from minute to minute
(heat, neighbours) meets both sides of a pair of turns alike, so ratios are of one round.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.records import ROOT
from rlhf_jax.config import UserError
from rlhf_jax.machine import cores

TRL_PINS = ROOT / "tests" / "parity" / "peers" / "trl_ppo.txt"
ONE_THREAD = {"NPROC": "1", "OMP_NUM_THREADS": "1"}
NOT_OURS = ("XLA_FLAGS", "PYTHONPATH", "NPROC", "OMP_NUM_THREADS", "JAX_PLATFORMS")
PAUSE = 0.2  # seconds before a turn, until the threads of the one before have gone to sleep
CORES = cores()


class Worker:
    """A process that works when it is told to.

    Args:
      command: that starts it.
      given: its settings, the first line it reads.
      env: of the process, beside what it inherits; by default one thread.
    """

    def __init__(
        self, command: Sequence[str], given: Mapping[str, Any], env: Mapping[str, str] = ONE_THREAD
    ):
        kept = {k: v for k, v in os.environ.items() if k not in NOT_OURS}
        self.name = " ".join(command)
        self.others = list[float]()  # in each turn, what everybody else took of the cores
        self.process = subprocess.Popen(
            command,
            env=kept | dict(env),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.tell(json.dumps(given))

    def tell(self, line: str) -> None:
        """Sends a line."""
        assert self.process.stdin
        try:
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise UserError(f"{self.name}: ended with exit status {self.process.wait()}") from None

    def answer(self) -> str:
        """The next line that comes back.

        Raises:
          UserError: the process has ended.
        """
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise UserError(f"{self.name}: ended with exit status {self.process.wait()}")
        return line.strip()

    def ready(self) -> Worker:
        """Waits until it is; returns itself."""
        said = self.answer()
        if said != "ready":
            raise UserError(f"{self.name}: said {said!r} in place of ready")
        return self

    def ask(self, line: str) -> str:
        """Sends a line; the line that comes back."""
        self.tell(line)
        return self.answer()

    def seconds(self) -> float:
        """Of one piece of work, by its own clock."""
        time.sleep(PAUSE)
        watch = Watch([self])
        found = float(self.ask("again"))
        watch.stop()
        return found

    def facts(self) -> dict[str, Any]:
        """What it knows of itself."""
        return json.loads(self.ask("facts"))

    def close(self) -> None:
        """Ends the process."""
        assert self.process.stdin and self.process.stdout
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


def positive(text: str) -> int:
    """The type of an option that is a number of at least 1.

    >>> positive("3")
    3
    """
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}: must be at least 1")
    return number


def together(workers: Sequence[Worker]) -> float:
    """Seconds until all have done one piece of work, begun at the same time, by our clock."""
    time.sleep(PAUSE)
    watch = Watch(workers)
    for worker in workers:
        worker.tell("again")
    for worker in workers:
        worker.answer()
    return watch.stop()


class Watch:
    """What others did with the cores during a turn; a measurement on a busy machine is none.

    Known on Linux; elsewhere 0.
    """

    def __init__(self, workers: Sequence[Worker]):
        self.workers, self.start = workers, time.monotonic()
        self.before = self.elsewhere()

    def elsewhere(self) -> float:
        """Seconds of all cores so far that were not these workers'."""
        stat = Path("/proc/stat")
        if not stat.exists():
            return 0.0
        user, nice, system, _, _, irq, soft, steal = map(int, stat.read_text().split()[1:9])
        ticks = user + nice + system + irq + soft + steal
        for worker in self.workers:
            fields = Path(f"/proc/{worker.process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks -= int(fields[11]) + int(fields[12])  # its user and system time
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self) -> float:
        """Ends the turn; its seconds."""
        seconds = time.monotonic() - self.start
        share = (self.elsewhere() - self.before) / (seconds * CORES)
        for worker in self.workers:
            worker.others.append(share)
        return seconds


def others(workers: Sequence[Worker]) -> dict[str, float]:
    """Share of the cores that everybody else had in the turns: the mean, and the worst turn."""
    found = [share for worker in workers for share in worker.others]
    return {"mean": sum(found) / len(found), "most": max(found)} if found else {}


def ratios(theirs: Sequence[float], ours: Sequence[float]) -> dict[str, float]:
    """How many times longer they take: median and range over rounds.

    >>> ratios([2.0, 3.0, 8.0], [1.0, 1.0, 2.0])
    {'median': 3.0, 'least': 2.0, 'most': 4.0}
    """
    found = [a / b for a, b in zip(theirs, ours)]
    return {"median": median(found), "least": min(found), "most": max(found)}


def spread(ratio: Mapping[str, float]) -> str:
    """What `ratios` found, as a table has it.

    >>> spread({"median": 3.0, "least": 2.0, "most": 4.0})
    '3.00 (2.00 to 4.00)'
    """
    return f"{ratio['median']:.2f} ({ratio['least']:.2f} to {ratio['most']:.2f})"


def peer_python(pins: Path) -> str:
    """The interpreter of the environment made from a file of pins.

    Raises:
      UserError: it is not there, or has other pins.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("RLHF_JAX_PEERS") or Path(cache, "rlhf_jax", "peers"))
    folder = root / pins.stem
    made = folder / "pins.txt"
    if not made.exists() or made.read_text() != pins.read_text():
        raise UserError(f"{folder} is missing or old: run benchmarks/peers/setup.sh {pins.stem}")
    return str(folder / "bin" / "python")
