"""Seeds of experiments.ppo in worker processes, one a core, with one thread each.

A program over lanes uses one core well, and several threads in one process can wait for each other
for ever (docs/classic.md); so on a CPU each core has a process of its own with its share of seeds.
"""

from __future__ import annotations

import dataclasses
import functools
from collections import deque
from contextlib import closing, suppress
from pathlib import Path

from rlhf_jax.config import ClassicConfig, UserError
from rlhf_jax.machine import blocks
from rlhf_jax.sweep.engine import exit_text
from rlhf_jax.sweep.workers import Message, Workers
from rlhf_jax.train.classic_lanes import Piece, Pieces, Source, joined, pieces

TELL = "rlhf_jax.train.classic_lanes:tell_pieces"
TICK = 60.0  # seconds between looks at nothing


def shares(config: ClassicConfig, count: int) -> list[ClassicConfig]:
    """The settings of each worker: seeds as evenly as may be, in their order.

    >>> [(share.seed, share.seeds) for share in shares(ClassicConfig(seed=7, seeds=5), 2)]
    [(7, 3), (10, 2)]
    """
    given = blocks(config.seeds, count)
    share = lambda b: dataclasses.replace(config, seed=config.seed + b.start, seeds=len(b))
    return [share(block) for block in given]


def source(count: int, logs: Path) -> Source:
    """Trains in `count` processes; what they print goes to `logs`."""
    return pieces if count == 1 else functools.partial(worker_pieces, count=count, logs=logs)


def worker_pieces(config: ClassicConfig, *, count: int, logs: Path) -> Pieces:
    """What `pieces` gives, from all workers together."""
    pool = Workers(dataclasses.replace(config.run, threads=1), logs)
    parts = [deque[Piece]() for _ in range(count)]
    given = shares(config, count)
    with closing(pool):
        for _ in given:
            pool.start()
        left = count
        while left:
            for worker, kind, content in pool.messages(TICK):
                if kind == "hello":
                    number = worker.number
                    with suppress(OSError):  # it has died since: the next message says so
                        pool.give(worker, TELL, given[number], number == 0)
                elif kind == "piece":
                    parts[worker.number].append(content)
                elif kind == "done":
                    left -= 1
                else:
                    raise UserError(lost(Message(worker, kind, content), logs))
            while all(parts):
                yield joined([part.popleft() for part in parts])


def lost(message: Message, logs: Path) -> str:
    """Why a worker trains no more."""
    worker, kind, content = message
    if kind == "refused":
        return content
    log = logs / f"worker_{worker.number}.log"
    where = f"; see {log}" if log.exists() and log.stat().st_size else ""
    if kind == "failed":
        return content[0] + where
    return f"a worker process ended ({exit_text(content)}){where}"
