"""How far apart the two sides come out."""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np

from rlhf_jax.config import RLHFConfig
from rlhf_jax.types import Params

from .ours import parameters
from .setting import LENGTH, PROMPT, SPECIAL
from .weights import Arrays


class Gap(NamedTuple):
    """Of one tensor, or the largest of several.

    Attributes:
        parameters: `max |ours - theirs| / max |theirs|` of the new values.
        change: `|ours - theirs| / |theirs - before|`, Euclidean norms.
    """

    parameters: float
    change: float


def flat(params: Params) -> Arrays:
    """Every tensor that is trained, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    path = lambda keys: ".".join(key.key for key in keys)
    found = {path(keys): np.asarray(x, np.float64) for keys, x in leaves}
    del found["value.trunk.head_vd"]  # a value model does not predict tokens
    return found


def movement(answer: Arrays, update: int, config: RLHFConfig) -> dict[str, float]:
    """How far TRL's first updates moved each tensor, as a share of its norm."""
    old, new = (flat(parameters(answer, x, config)) for x in ("before", f"after.{update}"))
    return {k: float(np.linalg.norm(new[k] - x) / np.linalg.norm(x)) for k, x in old.items()}


def tensor_gaps(ours: Params, answer: Arrays, update: int, config: RLHFConfig) -> dict[str, Gap]:
    """Tensor by tensor after the first `update` updates; both began with the same values."""
    new, mine = flat(parameters(answer, f"after.{update}", config)), flat(ours)
    old = flat(parameters(answer, "before", config))
    assert mine.keys() == new.keys()
    share = lambda error, scale: float(error / scale) if scale > 0 else float(error)
    norm, largest = np.linalg.norm, lambda x: np.abs(x).max()
    return {
        k: Gap(share(largest(mine[k] - x), largest(x)), share(norm(mine[k] - x), norm(x - old[k])))
        for k, x in new.items()
    }


def worst(gaps: dict[str, Gap], part: str = "") -> Gap:
    """The largest of the tensors whose path begins with `part`; NaN if there is one."""
    rows = np.array([gap for name, gap in gaps.items() if name.startswith(part)])
    return Gap(*map(float, rows.max(axis=0)))


def masks(answer: Arrays, update: int) -> tuple[np.ndarray, np.ndarray]:
    """Real tokens [B, T], and these with the slot after the EOS; from TRL's padding."""
    real = answer["sequences"][update][:, PROMPT:] != SPECIAL.pad
    return real, np.arange(LENGTH)[None] <= real.sum(1, keepdims=True)


def first_lessons(answer: Arrays) -> Arrays:
    """What TRL's first update learns from, 0 where nothing is."""
    real, valued = masks(answer, 0)
    found = {name: answer[name][0] for name in ("log_probs", "ref_log_probs", "advantages")}
    values, raw = answer["values"][0][:, PROMPT - 1 : -1], answer["raw_advantages"][0]
    return {name: np.where(real, x, 0.0) for name, x in found.items()} | {
        "values": np.where(valued, values, 0.0),
        "raw_advantages": np.where(valued, raw, 0.0),
        "scores": answer["scores"][0],
    }
