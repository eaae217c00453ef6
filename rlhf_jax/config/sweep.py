"""Settings of a sweep: how the jobs of a multirun are run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from rlhf_jax.config.fields import POSITIVE, choice, number


@dataclass(frozen=True)
class SweepConfig:
    """How `--multirun` runs its jobs; changes no number they compute."""

    # vmap: lanes side by side; map: one after the other inside one program; solo: each job as a
    # run of its own. auto: vmap on an accelerator, map in a worker process a core on a CPU.
    lanes: str = choice("auto", "map", "vmap", "solo")
    workers: Optional[int] = number(None, POSITIVE)  # processes; default: one a core on a CPU
    max_lanes: Optional[int] = number(None, POSITIVE)  # in one program; default: what fits
    objective: str = "gold/score"  # of summary.json, after training: what a search maximises
