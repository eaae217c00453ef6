"""PPO's clipped policy and value losses per token, and what is watched beside them."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax.ops.checks import assert_floats_alike
from rlhf_jax.ops.distributions import probability_ratio
from rlhf_jax.ops.kl import kl_k2
from rlhf_jax.types import Array


def ppo_clip_loss(
    log_probs: Array,
    behavior_log_probs: Array,
    advantages: Array,
    *,
    clip_low: float | Array,
    clip_high: float | Array,
    dual_clip: float | Array | None = None,
) -> Array:
    """Clipped surrogate, to be minimised: `max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high))`.

    With `r = exp(log_probs - behavior_log_probs)`. `dual_clip` bounds it by `-dual_clip A` where
    `A < 0`, so that one token far off the sampler cannot rule the batch.

    Args:
        log_probs: float, any shape, of the current policy.
        behavior_log_probs: same shape, of the policy that sampled.
        advantages: same shape; gradients flow through them unless the caller stops them.
        clip_low: in [0, 1).
        clip_high: >= 0; larger than `clip_low` is DAPO's "clip higher" (arXiv:2503.14476).
        dual_clip: > 1, or None for none.

    Returns:
        Same shape, per token. The ratio is capped at e^80 (see `probability_ratio`).

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: Eq. 7 of Schulman et al. 2017, arXiv:1707.06347; the dual clip is Eq. 5 of Ye et al.
    2020, arXiv:1912.09729.

    >>> log_probs, behavior = jnp.log(jnp.array([2.0, 2.0])), jnp.zeros(2)
    >>> loss = ppo_clip_loss(
    ...     log_probs, behavior, jnp.array([1.0, -1.0]), clip_low=0.25, clip_high=0.5
    ... )
    >>> [round(v, 4) for v in loss.tolist()]
    [-1.5, 2.0]
    """
    assert_floats_alike(log_probs, behavior_log_probs, advantages)
    ratio = probability_ratio(log_probs, behavior_log_probs)
    clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    loss = jnp.maximum(-advantages * ratio, -advantages * clipped)
    if dual_clip is None:
        return loss
    return jnp.where(advantages < 0, jnp.minimum(loss, -dual_clip * advantages), loss)


def _half_square(errors: Array, huber_delta: float | Array | None) -> Array:
    """`0.5 e^2`, continued by its tangent beyond `huber_delta`."""
    if huber_delta is None:
        return 0.5 * jnp.square(errors)
    sizes = jnp.abs(errors)
    inside = jnp.minimum(sizes, huber_delta)
    return 0.5 * jnp.square(inside) + huber_delta * (sizes - inside)


def value_loss(
    values: Array,
    behavior_values: Array,
    returns: Array,
    *,
    clip: float | Array | None = None,
    huber_delta: float | Array | None = None,
) -> Array:
    """Error of the values: `max(h(v - R), h(v_c - R))`, with `h(e) = 0.5 e^2`.

    With `v_c = clip(v, v_old - clip, v_old + clip)`; without a clip, `h(v - R)`. With
    `huber_delta`, `h(e) = huber_delta (|e| - huber_delta / 2)` where `|e| > huber_delta`.

    Args:
        values: float, any shape, of the current value function.
        behavior_values: same shape, when the data was sampled.
        returns: same shape, the targets.
        clip: > 0, or None for no clipping.
        huber_delta: > 0, in points, the largest gradient an error can have; None for no limit.

    Returns:
        Same shape, per token, >= 0.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: `lm_human_preferences/train_policy.py` of Ziegler et al. 2019, arXiv:1909.08593; Huber
    1964, "Robust estimation of a location parameter".

    >>> args = jnp.array([2.0]), jnp.array([0.0]), jnp.array([3.0])
    >>> value_loss(*args).tolist(), value_loss(*args, clip=1.0).tolist()
    ([0.5], [2.0])
    >>> value_loss(*args, clip=1.0, huber_delta=1.0).tolist()
    [1.5]
    """
    assert_floats_alike(values, behavior_values, returns)
    losses = _half_square(values - returns, huber_delta)
    if clip is None:
        return losses
    clipped = jnp.clip(values, behavior_values - clip, behavior_values + clip)
    return jnp.maximum(losses, _half_square(clipped - returns, huber_delta))


def clip_fraction(
    log_probs: Array,
    behavior_log_probs: Array,
    advantages: Array,
    *,
    clip_low: float | Array,
    clip_high: float | Array,
) -> Array:
    """1 where the clip takes the token's gradient away, else 0; its mean is the clip fraction.

    `[A > 0 and r > 1 + clip_high] + [A < 0 and r < 1 - clip_low]`. The dual clip is not counted.

    Args:
        log_probs, behavior_log_probs, advantages, clip_low, clip_high: as in `ppo_clip_loss`.

    Returns:
        Same shape and dtype as `log_probs`.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: `pg_clipfrac` in the code of Ziegler et al. 2019, arXiv:1909.08593.

    >>> log_probs, behavior = jnp.log(jnp.array([2.0, 2.0])), jnp.zeros(2)
    >>> clip_fraction(
    ...     log_probs, behavior, jnp.array([1.0, -1.0]), clip_low=0.2, clip_high=0.2
    ... ).tolist()
    [1.0, 0.0]
    """
    assert_floats_alike(log_probs, behavior_log_probs, advantages)
    ratio = probability_ratio(log_probs, behavior_log_probs)
    above = (advantages > 0) & (ratio > 1 + clip_high)
    below = (advantages < 0) & (ratio < 1 - clip_low)
    return (above | below).astype(log_probs.dtype)


def approx_kl(log_probs: Array, behavior_log_probs: Array) -> Array:
    """How far the policy has moved within an update: `(log_probs - behavior_log_probs)^2 / 2`.

    Args:
        log_probs: float, any shape, of the current policy.
        behavior_log_probs: same shape, of the policy that sampled.

    Returns:
        Same shape, nats per token, >= 0.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: `approxkl` in the code of Ziegler et al. 2019, arXiv:1909.08593.

    >>> float(approx_kl(jnp.array(-1.0), jnp.array(-1.5)))
    0.125
    """
    return kl_k2(log_probs, behavior_log_probs)
