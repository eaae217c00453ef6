"""Platform set-up. Must run before jax is imported: jax reads these settings once."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

import platformdirs

from rlhf_jax.config import ConfigError, RunConfig
from rlhf_jax.machine import accelerator_likely

MARK = "RLHF_JAX_RUNTIME"  # the process whose platform has been chosen
# Of XLA on a CPU; jaxlib 0.10.2 and 0.11.2 have them. At level 1 of LLVM programs compile in a
# fifth less time than at its 3, and run as fast, for their time is in matrix products of a library.
# Without the analysis of regions XLA copies the cache of keys and values for each token drawn.
CPU_FLAGS = {
    "xla_backend_optimization_level": "1",
    "xla_cpu_copy_insertion_use_region_analysis": "true",
}
# Programs compile for a quarter less without these, and run as fast unless they are very small.
FUSION_EMITTERS = "xla_cpu_use_fusion_emitters"
PLATFORMS = {"cpu": "cpu", "gpu": "cuda", "tpu": "tpu"}


def user_cache() -> Path:
    """The folder for downloads, finished stages and compiled programs, outside the repository.

    `RLHF_JAX_CACHE` in the environment moves it.
    """
    return Path(os.environ.get("RLHF_JAX_CACHE") or platformdirs.user_cache_dir("rlhf_jax"))


def setup(run: RunConfig) -> None:
    """Chooses platform, threads, compilation cache and precision through the environment.

    On CPU, programs over many lanes can wait for ever in XLA's thread pool, which is as wide as
    the machine has cores; a pool of one thread cannot starve. `run.threads` sets the pool.

    Further runs in the same process keep what the first one set.

    Raises:
      RuntimeError: jax was imported before the first call.
    """
    env = os.environ
    if "jax" in sys.modules:
        if env.get(MARK) == str(os.getpid()):
            return
        raise RuntimeError("runtime.setup must run before jax is imported")
    env[MARK] = str(os.getpid())
    env.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if run.device != "auto":
        env["JAX_PLATFORMS"] = PLATFORMS[run.device]
    if run.threads is not None:
        env["NPROC"] = str(run.threads)
    if not accelerator_likely(run):
        for flag, value in CPU_FLAGS.items():
            add_flag(flag, value)
    if run.compile_cache:
        env.setdefault("JAX_COMPILATION_CACHE_DIR", str(user_cache() / "compiled"))
        env.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
        env.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
    env["JAX_DEFAULT_MATMUL_PRECISION"] = run.matmul_precision


def add_flag(name: str, value: str) -> None:
    """Sets a flag of XLA that the user has not set, before jax is imported.

    Where `XLA_FLAGS` names a file of flags, which begins with no dash, it stays what it is.
    """
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if f"--{name}=" not in flags and (not flags or flags.startswith("-")):
        os.environ["XLA_FLAGS"] = f"{flags} --{name}={value}".strip()


def connect(run: RunConfig) -> str:
    """Imports jax, makes sure the device is there and returns its kind.

    Raises:
      ConfigError: the device asked for is not there.
    """
    for chatty in ("absl", "jax"):  # they tell of every checkpoint and of platforms not there
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # jax tells of its own progress with deprecations; a run's console is not the place for them.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    import jax

    try:
        return jax.devices()[0].device_kind
    except (RuntimeError, AssertionError) as error:  # jax asserts where a plugin is missing
        reason = (str(error) or "no such platform").splitlines()[0]
        raise ConfigError(
            "run.device", run.device, f"not usable here ({reason}); use cpu"
        ) from None
