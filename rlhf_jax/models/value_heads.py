"""Scalar heads on a transformer: the reward model, and the value function of a policy.

A scored model (reward model, separate value function) is `{"trunk": ..., "head": ...}`. A policy
with its value function is `{"policy": trunk, "value": ...}`, where `value` holds beside its head
what the sharing mode gives it alone: a trunk, the top of one, or nothing.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from rlhf_jax.config import ConfigError
from rlhf_jax.models.functional import Model
from rlhf_jax.models.transformer import block_names
from rlhf_jax.ops.masked import last_index
from rlhf_jax.types import Array, Key, Params

OWN_TRUNK = ("separate", "separate_matched")


def init_head(key: Key, width: int, *, scale: str = "inverse_sqrt") -> Params:
    """A linear head: weights N(0, std^2) and bias 0.

    Args:
      key: for the weights.
      width: of the hidden states it reads.
      scale: the std. `inverse_sqrt` is `(width + 1)^-0.5`, that of Stiennon et al. 2020
        (arXiv:2009.01325), appendix B; `inverse` is `1 / (width + 1)`, what OpenRLHF makes of it;
        `zero` is 0.

    >>> init_head(jax.random.key(0), 2, scale="zero")["weight_d"].tolist()
    [0.0, 0.0]
    """
    std = {"inverse_sqrt": (width + 1) ** -0.5, "inverse": 1 / (width + 1), "zero": 0.0}[scale]
    weight = std * jax.random.normal(key, (width,), jnp.float32)
    return {"weight_d": weight, "bias": jnp.zeros((), jnp.float32)}


def apply_head(head: Params, hidden: Array) -> Array:
    """Hidden states [B, L, D] to scalars [B, L]."""
    return jnp.einsum("bld,d->bl", hidden, head["weight_d"]) + head["bias"]


def standardized_head(head: Params, scores: Array, *, scale: bool = True) -> Params:
    """The head whose scores are `scores` [N], shifted to mean 0 and scaled to variance 1.

    With `scale=False` it is only shifted.

    >>> head = {"weight_d": jnp.array([2.0]), "bias": jnp.array(1.0)}
    >>> hidden = jnp.array([[[1.0], [2.0], [6.0]]])
    >>> scaled = apply_head(standardized_head(head, apply_head(head, hidden)[0]), hidden)
    >>> round(float(jnp.mean(scaled)), 5), round(float(jnp.std(scaled)), 5)
    (0.0, 1.0)
    """
    mean, std = jnp.mean(scores), jnp.maximum(jnp.std(scores), 1e-6) if scale else 1.0
    return {"weight_d": head["weight_d"] / std, "bias": (head["bias"] - mean) / std}


def score_texts(model: Model, params: Params, tokens: Array, mask: Array) -> Array:
    """Reward-model scores [B]: the head read at the last real token of each text [B, L]."""
    hidden = model.apply(params["trunk"], tokens, mask).hidden
    last = last_index(mask)[:, None]
    return jnp.take_along_axis(apply_head(params["head"], hidden), last, axis=1)[:, 0]


def depth(trunk: Params) -> int:
    """Number of blocks of a trunk."""
    return sum(name.startswith("block_") for name in trunk)


def top_of(trunk: Params, layers: int) -> Params:
    """The last `layers` blocks and the final norm of a trunk.

    Raises:
      ConfigError: the trunk has fewer blocks.
    """
    blocks = depth(trunk)
    if layers > blocks:
        raise ConfigError("model.value_layers", layers, f"must be at most model.layers={blocks}")
    names = (*block_names(blocks)[-layers:], "final_norm")
    return {name: trunk[name] for name in names}


def init_value(
    key: Key, sft: Params, reward: Params, *, mode: str, init: str, layers: int = 1
) -> Params:
    """Value parameters for a sharing mode and a starting point.

    Args:
      key: for the random head.
      sft: trunk of the supervised model.
      reward: reward model, `{"trunk", "head"}`.
      mode: `separate` and `separate_matched` (a trunk of its own), `top_k_layers` (its own last
        `layers` blocks and final norm), `shared` or `shared_stop_gradient` (only the head).
      init: `reward_model` takes its head, and of its trunk what the value has of its own;
        `random` a random head and the supervised trunk; `zero` a zero head and the supervised
        trunk.
      layers: 1 to the depth of the trunk, read in `top_k_layers` alone.

    Raises:
      ConfigError: `layers` is more than the trunk has.
    """
    if init == "reward_model":
        trunk, head = reward["trunk"], reward["head"]
    else:
        scale = "zero" if init == "zero" else "inverse_sqrt"
        trunk, head = sft, init_head(key, reward["head"]["weight_d"].shape[0], scale=scale)
    if mode in OWN_TRUNK:
        return {"trunk": trunk, "head": head}
    if mode == "top_k_layers":
        return {"top": top_of(trunk, layers), "head": head}
    return {"head": head}


def policy_and_values(
    model: Model,
    params: Params,
    tokens: Array,
    mask: Array,
    *,
    window: tuple[int, int],
    mode: str,
    layers: int = 1,
) -> tuple[Array, Array]:
    """Logits [B, T, V] and values [B, T] at the positions of `window`.

    With a prompt of width P and a completion of width T, `window=(P - 1, P + T - 1)` gives for
    each completion token the logits that chose it and the value before it was chosen. `mode` and
    `layers` as in `init_value`; they do not touch the logits.
    """
    policy, value = params["policy"], params["value"]
    tap = {"tap": depth(policy) - layers} if mode == "top_k_layers" else {}
    output = model.apply(policy, tokens, mask, window=window, **tap)
    if mode in OWN_TRUNK:
        hidden = model.apply(value["trunk"], tokens, mask, window=window).hidden
    elif mode == "top_k_layers":
        hidden = model.top(value["top"], output.tapped, mask, layers=layers, window=window)
    else:
        hidden = output.hidden
    if mode == "shared_stop_gradient":
        hidden = lax.stop_gradient(hidden)
    return output.logits, apply_head(value["head"], hidden)
