"""A row of the card, and what a cell is asked to run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

ROUNDING = 1e-3  # in the reward's unit: points above the envelope by less are on it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What a cell runs: seeds, sample budgets (rising), and the price of a nat."""

    seeds: Sequence[int]
    budgets: Sequence[int]
    beta: float


def card_row(
    task: str, algo: str, instance: int, seed: int | None, plan: Plan, at: dict[str, list]
) -> dict[str, Any]:
    """What every row of the card has; `at` holds curves over the budgets."""
    return {
        "task": task,
        "algo": algo,
        "kind": "calibration" if seed is None else "trained",
        "instance": instance,
        "seed": 0 if seed is None else seed,
        "seconds": None,
        "budgets": list(plan.budgets),
        "gap_share": at["exact/gap_share"],
        "own_gap_share": None,
        "reward": at["exact/reward"],
        "kl": at["exact/kl"],
        "beta": plan.beta,
        "beta_eff": at["exact/beta_eff"][-1],
        "beta_r2": at["exact/beta_r2"][-1],
        "kl_efficiency": at["exact/kl_efficiency"][-1],
        "above_envelope": sum((x or 0.0) > ROUNDING for x in at["exact/above_envelope"]),
        "value_error": None,
        "gradient_cosine": None,
    }


def finite(x: Any) -> float | None:
    """A plain number; None if it is not finite."""
    return float(x) if np.isfinite(x) else None
