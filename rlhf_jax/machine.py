"""What machine this is, told without importing jax."""

from __future__ import annotations

import importlib.util
import itertools
import os
from pathlib import Path

from rlhf_jax.config import RunConfig


def accelerator_likely(run: RunConfig) -> bool:
    """Whether jax may find an accelerator; told without importing it."""
    if run.device in ("cpu", "gpu", "tpu"):
        return run.device != "cpu"
    devices = any(Path(name).exists() for name in ("/dev/nvidia0", "/dev/kfd", "/dev/accel0"))
    return devices or importlib.util.find_spec("libtpu") is not None


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blocks(total: int, parts: int) -> list[range]:
    """`range(total)` cut into so many pieces, as even as may be, the longer ones first.

    >>> blocks(5, 2)
    [range(0, 3), range(3, 5)]
    """
    bounds = [-(-total * i // parts) for i in range(parts + 1)]
    return [range(low, high) for low, high in itertools.pairwise(bounds)]
