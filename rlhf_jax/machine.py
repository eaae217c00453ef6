"""What machine this is, told without importing jax."""

from __future__ import annotations

import importlib.util
import itertools
import os
import platform
from pathlib import Path

from rlhf_jax.config import RunConfig

DEV = Path("/dev")
DEVICES = ("nvidia[0-9]*", "dxg", "kfd", "accel[0-9]*")  # files of drivers


def accelerator_likely(run: RunConfig) -> bool:
    """Whether jax may find an accelerator; told without importing it."""
    if run.device in ("cpu", "gpu", "tpu"):
        return run.device != "cpu"
    devices = any(next(DEV.glob(name), None) for name in DEVICES)
    return devices or importlib.util.find_spec("libtpu") is not None


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """What the maker calls the processor; its architecture where that is not told."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def blocks(total: int, parts: int) -> list[range]:
    """`range(total)` cut into so many pieces, as even as may be, the longer ones first.

    >>> blocks(6, 4)
    [range(0, 2), range(2, 4), range(4, 5), range(5, 6)]
    """
    size, longer = divmod(total, parts)
    bounds = [i * size + min(i, longer) for i in range(parts + 1)]
    return [range(low, high) for low, high in itertools.pairwise(bounds)]
