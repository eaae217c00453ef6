"""Statistics over the entries a mask keeps, and the positions masks describe.

Masked-out entries are replaced before any arithmetic, so a NaN or an infinity standing on padding
reaches neither a value nor a gradient; one standing on a real entry is never hidden.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlhf_jax.types import Array

Axis = int | tuple[int, ...] | None


def _sum(x: Array, mask: Array, axis: Axis, keepdims: bool) -> Array:
    return jnp.sum(jnp.where(mask, x, 0), axis=axis, keepdims=keepdims)


def _mean(x: Array, mask: Array, axis: Axis, keepdims: bool) -> Array:
    weight = _sum(jnp.ones_like(x), mask, axis, keepdims)
    return _sum(x, mask, axis, keepdims) / jnp.maximum(weight, 1)


def _check(x: Array, mask: Array) -> None:
    chex.assert_type(x, float)
    chex.assert_equal_shape([x, mask])


def masked_sum(x: Array, mask: Array, axis: Axis = None) -> Array:
    """Sum of `x` where `mask` is True: `sum_i m_i x_i`.

    Args:
        x: float, any shape.
        mask: bool, shape of `x`.
        axis: reduced axes; None reduces all.

    Returns:
        `x`'s shape without the reduced axes; 0 where nothing is kept.

    Raises:
        AssertionError: shapes differ, or `x` is not float.

    >>> float(masked_sum(jnp.array([1.0, 2.0, jnp.nan]), jnp.array([True, True, False])))
    3.0
    """
    _check(x, mask)
    return _sum(x, mask, axis, keepdims=False)


def masked_mean(x: Array, mask: Array, axis: Axis = None) -> Array:
    """Mean of `x` where `mask` is True: `sum_i m_i x_i / max(sum_i m_i, 1)`.

    Args:
        x: float, any shape.
        mask: bool, shape of `x`.
        axis: reduced axes; None reduces all, so every kept entry weighs the same.

    Returns:
        `x`'s shape without the reduced axes, in `x`'s unit; 0 where nothing is kept.

    Raises:
        AssertionError: shapes differ, or `x` is not float.

    Source: `masked_mean` of TRL (its PPO), which divides by 0 where nothing is kept.

    >>> float(masked_mean(jnp.array([1.0, 2.0, 9.0]), jnp.array([True, True, False])))
    1.5
    """
    _check(x, mask)
    return _mean(x, mask, axis, keepdims=False)


def masked_var(x: Array, mask: Array, axis: Axis = None, ddof: int = 0) -> Array:
    """Variance of `x` where `mask` is True: `sum_i m_i (x_i - mean)^2 / max(n - ddof, 1)`.

    Args:
        x: float, any shape.
        mask: bool, shape of `x`; `n` is the number of entries kept.
        axis: reduced axes; None reduces all.
        ddof: 0 for the biased variance (TensorFlow's, numpy's), 1 for the unbiased (torch's).

    Returns:
        `x`'s shape without the reduced axes, >= 0, in `x`'s unit squared; 0 where at most one
        entry is kept.

    Raises:
        AssertionError: shapes differ, or `x` is not float.

    Source: ddof 0 as `tf.nn.moments` in openai/lm-human-preferences (Ziegler et al. 2019,
    arXiv:1909.08593), ddof 1 as `masked_var` of TRL.

    >>> x, mask = jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False])
    >>> float(masked_var(x, mask)), float(masked_var(x, mask, ddof=1))
    (1.0, 2.0)
    """
    _check(x, mask)
    # Zeroed before the subtraction: an infinity on padding would give a NaN gradient below.
    kept = jnp.where(mask, x, 0)
    squares = jnp.square(kept - _mean(kept, mask, axis, keepdims=True))
    weight = _sum(jnp.ones_like(x), mask, axis, keepdims=False)
    return _sum(squares, mask, axis, keepdims=False) / jnp.maximum(weight - ddof, 1)


def masked_whiten(
    x: Array, mask: Array, *, shift_mean: bool = True, ddof: int = 0, epsilon: float | Array = 1e-8
) -> Array:
    """Scales the kept entries to unit variance: `(x - mean) / sqrt(var + epsilon)`.

    Args:
        x: float, any shape; statistics are over all kept entries.
        mask: bool, shape of `x`.
        shift_mean: False adds the mean back unscaled, as is done for rewards.
        ddof: of the variance; OpenAI's code has 0, TRL's 1.
        epsilon: added to the variance, >= 0.

    Returns:
        Shape of `x`, without unit; 0 where `mask` is False.

    Raises:
        AssertionError: shapes differ, or `x` is not float.

    Source: `whiten` in openai/lm-human-preferences (Ziegler et al. 2019, arXiv:1909.08593).

    >>> x, mask = jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False])
    >>> [round(v, 4) for v in masked_whiten(x, mask).tolist()]
    [-1.0, 1.0, 0.0]
    >>> [round(v, 4) for v in masked_whiten(x, mask, shift_mean=False).tolist()]
    [1.0, 3.0, 0.0]
    """
    _check(x, mask)
    kept = jnp.where(mask, x, 0)
    mean = masked_mean(kept, mask)
    whitened = (kept - mean) * jax.lax.rsqrt(masked_var(kept, mask, ddof=ddof) + epsilon)
    return jnp.where(mask, whitened if shift_mean else whitened + mean, 0)


def masked_center(x: Array, mask: Array) -> Array:
    """Takes the mean of the kept entries off them: `x - mean`.

    Args:
        x: float, any shape; the mean is over all kept entries.
        mask: bool, shape of `x`.

    Returns:
        Shape and unit of `x`; 0 where `mask` is False.

    Raises:
        AssertionError: shapes differ, or `x` is not float.

    >>> masked_center(jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False])).tolist()
    [-1.0, 1.0, 0.0]
    """
    _check(x, mask)
    return jnp.where(mask, x - masked_mean(x, mask), 0)


def masked_scale(x: Array, mask: Array, *, ddof: int = 0, epsilon: float | Array = 1e-8) -> Array:
    """Scales the kept entries to unit variance without moving zero: `x / sqrt(var + epsilon)`.

    Args:
        x: float, any shape; the variance is over all kept entries.
        mask: bool, shape of `x`.
        ddof: of the variance, as in `masked_var`.
        epsilon: added to the variance, >= 0.

    Returns:
        Shape of `x`, without unit; 0 where `mask` is False.

    Raises:
        AssertionError: shapes differ, or `x` is not float.

    >>> x, mask = jnp.array([1.0, 3.0, 9.0]), jnp.array([True, True, False])
    >>> [round(v, 4) for v in masked_scale(x, mask).tolist()]
    [1.0, 3.0, 0.0]
    """
    _check(x, mask)
    return jnp.where(mask, x, 0) * jax.lax.rsqrt(masked_var(x, mask, ddof=ddof) + epsilon)


def last_index(mask: Array) -> Array:
    """Index of the last True along the last axis: `max {t : mask_t}`; padding may be on any side.

    Args:
        mask: bool [..., T].

    Returns:
        int32 [...]; 0 for a row with no True, so that it can still be used to gather.

    Raises:
        AssertionError: `mask` is not bool.

    >>> last_index(jnp.array([[True, True, False], [False, True, True]])).tolist()
    [1, 2]
    """
    chex.assert_type(mask, bool)
    slots = jax.lax.broadcasted_iota(jnp.int32, mask.shape, mask.ndim - 1)
    return jnp.max(jnp.where(mask, slots, 0), axis=-1)


def completion_mask(tokens: Array, eos_id: int | Array) -> Array:
    """True up to and with the first EOS: `mask_t = (no EOS before t)`.

    Args:
        tokens: integer [..., T].
        eos_id: id of the end-of-sequence token.

    Returns:
        bool [..., T]; all True where the EOS never comes.

    Raises:
        AssertionError: `tokens` is not integer.

    >>> completion_mask(jnp.array([[5, 2, 2, 0], [5, 6, 7, 8]]), eos_id=2).tolist()
    [[True, True, False, False], [True, True, True, True]]
    """
    chex.assert_type(tokens, int)
    is_eos = (tokens == eos_id).astype(jnp.int32)
    return jnp.cumsum(is_eos, axis=-1) - is_eos == 0
