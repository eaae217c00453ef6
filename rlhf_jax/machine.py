"""What machine this is, told without importing jax."""

from __future__ import annotations

import importlib.util
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
