"""How many lanes fit into the memory there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax

from rlhf_jax.sweep.lanes import Program
from rlhf_jax.sweep.layout import Layout

USED = 0.8  # of the memory that is free: other lanes' records and the estimate's error need some


def fitting(compile_for: Callable[[Layout], Program], layout: Layout, workers: int) -> Program:
    """The program with the most lanes that fit, at most those of `layout`.

    Args:
      workers: processes that share the memory.
    """
    free = free_bytes()
    while True:
        program = compile_for(layout)
        limit = program.bytes if free is None else USED * free / workers
        fewer = fewer_lanes(layout.lanes, program.bytes, limit)
        if fewer == layout.lanes:
            return program
        whole = fewer - fewer % jax.device_count()  # all devices have as many
        layout = dataclasses.replace(layout, lanes=whole or fewer)


def fewer_lanes(lanes: int, needed: int, limit: float) -> int:
    """Lanes that fit where `lanes` need so much; at least one, and fewer if they do not fit.

    >>> fewer_lanes(8, 100, 100.0), fewer_lanes(8, 100, 60.0), fewer_lanes(8, 100, 1.0)
    (8, 4, 1)
    """
    if needed <= limit or lanes == 1:
        return lanes
    return max(min(int(lanes * limit / needed), lanes - 1), 1)


def free_bytes() -> int | None:
    """Memory that can still be had on the device, None where nobody knows."""
    stats = None if jax.default_backend() == "cpu" else jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) - int(stats.get("bytes_in_use", 0))
    known = [found for found in (free_of_machine(), free_of_container()) if found is not None]
    return min(known, default=None) if jax.default_backend() == "cpu" else None


def free_of_machine() -> int | None:
    """Memory Linux could give to a process, without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration):
        return None


def free_of_container() -> int | None:
    """What is left of a container's limit, None without one."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        return None if limit == "max" else int(limit) - used
    except (OSError, ValueError):
        return None
