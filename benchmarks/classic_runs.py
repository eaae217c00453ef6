"""Runs of experiments.ppo as the benchmarks here take them: by overrides, in workers of one thread.

More threads in a worker would let XLA's pool starve (docs/classic.md); so a core is a worker.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from experiments._schemas import CLASSIC_GROUPS, register_schemas
from rlhf_jax.checks.classic import check_classic
from rlhf_jax.config import ClassicConfig, RunConfig
from rlhf_jax.machine import blocks


def settings(*overrides: str) -> ClassicConfig:
    """What `python -m experiments.ppo OVERRIDES` trains with, without a progress bar."""
    register_schemas(CLASSIC_GROUPS, base_ppo=ClassicConfig)
    with initialize_config_module("configs", version_base="1.3"):
        config = OmegaConf.to_object(compose("ppo", overrides=list(overrides)))
    assert isinstance(config, ClassicConfig)
    check_classic(config)
    return dataclasses.replace(config, run=RunConfig(progress=False, threads=1))


def measure(overrides: Sequence[str]) -> dict[str, Any]:
    """The summary of one run and its seconds; runs in a worker of its own."""
    from rlhf_jax import runtime

    config = settings(*overrides)
    runtime.setup(config.run)
    from rlhf_jax.train.classic_run import run_classic

    start, cpu = time.monotonic(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        summary, _ = run_classic(config, Path(folder) / "run")
    spent = {"wall": time.monotonic() - start, "cpu": time.process_time() - cpu}
    return summary | {"spent": spent}


def halves(seeds: int, workers: int, first: int = 0) -> list[list[str]]:
    """The seeds as one block of lanes a worker.

    >>> halves(5, 2)
    [['seed=0', 'seeds=3'], ['seed=3', 'seeds=2']]
    """
    found = [block for block in blocks(seeds, workers) if block]
    return [[f"seed={first + block.start}", f"seeds={len(block)}"] for block in found]


def joined(parts: Sequence[dict[str, Any]], name: str) -> list[float]:
    """A final number of every seed."""
    return [x for part in parts for x in part["final"][name]]


@contextmanager
def workers(count: int) -> Iterator[ProcessPoolExecutor]:
    """Processes of one thread each, whose jobs are gone when one fails."""
    os.environ["NPROC"] = "1"  # before a worker imports jax
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def submit(
    pool: ProcessPoolExecutor, overrides: Sequence[str], seeds: int, count: int, first: int = 0
) -> list[Future]:
    """Measures the seeds in `count` blocks of lanes."""
    return [pool.submit(measure, [*overrides, *part]) for part in halves(seeds, count, first)]
