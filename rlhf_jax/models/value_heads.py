"""Scalar heads on a transformer: the reward model, and the value function of a policy.

A scored model (reward model, separate value function) is `{"trunk": ..., "head": ...}`. A policy
with its value function is `{"policy": trunk, "value": ...}`, where `value` has its own trunk only
in the mode `separate`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from rlhf_jax.models.functional import Model
from rlhf_jax.ops.masked import last_index
from rlhf_jax.types import Array, Key, Params


def init_head(key: Key, width: int, *, zero: bool = False) -> Params:
    """A linear head: weights N(0, 1/(width + 1)), or 0, and bias 0.

    The scale is that of Stiennon et al. 2020 (arXiv:2009.01325), appendix B.
    """
    scale = 0.0 if zero else (width + 1) ** -0.5
    weight = scale * jax.random.normal(key, (width,), jnp.float32)
    return {"weight_d": weight, "bias": jnp.zeros((), jnp.float32)}


def apply_head(head: Params, hidden: Array) -> Array:
    """Hidden states [B, L, D] to scalars [B, L]."""
    return jnp.einsum("bld,d->bl", hidden, head["weight_d"]) + head["bias"]


def standardized_head(head: Params, scores: Array) -> Params:
    """The head whose scores are `scores` [N], shifted and scaled to mean 0 and variance 1.

    >>> head = {"weight_d": jnp.array([2.0]), "bias": jnp.array(1.0)}
    >>> hidden = jnp.array([[[1.0], [2.0], [6.0]]])
    >>> scaled = apply_head(standardized_head(head, apply_head(head, hidden)[0]), hidden)
    >>> round(float(jnp.mean(scaled)), 5), round(float(jnp.std(scaled)), 5)
    (0.0, 1.0)
    """
    mean, std = jnp.mean(scores), jnp.maximum(jnp.std(scores), 1e-6)
    return {"weight_d": head["weight_d"] / std, "bias": (head["bias"] - mean) / std}


def score_texts(model: Model, params: Params, tokens: Array, mask: Array) -> Array:
    """Reward-model scores [B]: the head read at the last real token of each text [B, L]."""
    hidden = model.apply(params["trunk"], tokens, mask).hidden
    last = last_index(mask)[:, None]
    return jnp.take_along_axis(apply_head(params["head"], hidden), last, axis=1)[:, 0]


def init_value(key: Key, sft: Params, reward: Params, *, mode: str, init: str) -> Params:
    """Value parameters for a sharing mode and a starting point.

    Args:
      key: for the random head.
      sft: trunk of the supervised model.
      reward: reward model, `{"trunk", "head"}`.
      mode: `separate` (own trunk), `shared` or `shared_stop_gradient`.
      init: `reward_model` takes its head, and its trunk where there is one; `sft` the supervised
        trunk and a random head; `zero` the supervised trunk and a zero head.
    """
    if init == "reward_model":
        trunk, head = reward["trunk"], reward["head"]
    else:
        trunk, head = sft, init_head(key, reward["head"]["weight_d"].shape[0], zero=init == "zero")
    return {"trunk": trunk, "head": head} if mode == "separate" else {"head": head}


def policy_and_values(
    model: Model, params: Params, tokens: Array, mask: Array, *, window: tuple[int, int], mode: str
) -> tuple[Array, Array]:
    """Logits [B, T, V] and values [B, T] at the positions of `window`.

    With a prompt of width P and a completion of width T, `window=(P - 1, P + T - 1)` gives for
    each completion token the logits that chose it and the value before it was chosen.
    """
    output = model.apply(params["policy"], tokens, mask, window=window)
    if mode == "separate":
        hidden = model.apply(params["value"]["trunk"], tokens, mask, window=window).hidden
    else:
        hidden = output.hidden
    if mode == "shared_stop_gradient":
        hidden = lax.stop_gradient(hidden)
    return output.logits, apply_head(params["value"]["head"], hidden)
