"""Log-probabilities, entropies and ratios of categorical distributions given by logits.

A temperature is the caller's: divide the logits by it first.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlhf_jax.ops.checks import assert_floats_alike
from rlhf_jax.types import Array, Key

# exp overflows float32 near 88.7, and an infinite ratio on the branch a clip discards turns the
# gradient into 0 * inf = NaN; e^80 leaves room for an advantage to multiply it.
MAX_LOG_RATIO = 80.0


def _shift(logits: Array) -> Array:
    return logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))


def log_probs_of(logits: Array, tokens: Array) -> Array:
    """Log-probability of each token: `logits[token] - log sum_v exp(logits_v)`, in nats.

    Args:
        logits: float [..., V]; entries may be -inf as long as one is finite.
        tokens: integer [...], in [0, V).

    Returns:
        [...], <= 0; -inf for a forbidden token, NaN for an id of V or more.

    Raises:
        AssertionError: shapes disagree, or a dtype is wrong.

    >>> logits = jnp.log(jnp.array([[0.25, 0.75], [1.0, 0.0]]))
    >>> jnp.exp(log_probs_of(logits, jnp.array([1, 0]))).tolist()
    [0.75, 1.0]
    """
    chex.assert_type([logits, tokens], [float, int])
    chex.assert_shape(tokens, logits.shape[:-1])
    shifted = _shift(logits)
    chosen = jnp.take_along_axis(shifted, tokens[..., None], axis=-1)[..., 0]  # [...]
    return chosen - jnp.log(jnp.sum(jnp.exp(shifted), axis=-1))


def sample(key: Key, logits: Array) -> Array:
    """Draws a token at each position: the first whose `F_v = sum_{w <= v} p_w` exceeds `u`.

    One uniform `u` in [0, 1) a position (inversion: Devroye 1986, section III.2), where the Gumbel
    trick of `jax.random.categorical` takes one a token, and several times as long on a CPU. In
    float32 `u` has steps of 2^-23: probabilities are off by up to about that (1.2e-7), so that what
    is rarer may be drawn too often or never. What has weight 0 beside the likeliest never is.

    Args:
        key: a random key.
        logits: float [..., V]; entries may be -inf as long as one is finite. Computed in float32 at
            least.

    Returns:
        int32 [...], in [0, V).

    Raises:
        AssertionError: `logits` is not float.

    >>> logits = jnp.log(jnp.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]))
    >>> sample(jax.random.key(0), logits).tolist()
    [1, 2]
    """
    chex.assert_type(logits, float)
    wide = logits if logits.dtype.itemsize >= 4 else logits.astype(jnp.float32)
    weights = jnp.exp(_shift(wide))
    sums, possible = jnp.cumsum(weights, axis=-1), weights > 0
    # Sums in parallel may fall by a rounding: what follows the last possible token has no say.
    total = jnp.max(jnp.where(possible, sums, 0), axis=-1, keepdims=True)
    u = jax.random.uniform(key, total.shape, total.dtype)
    reached = u * total < sums  # u * total < total, as u is below 1
    ids = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    return jnp.min(jnp.where(reached & possible, ids, ids[-1]), axis=-1)


def entropy(logits: Array) -> Array:
    """Entropy at each position: `-sum_v p_v log p_v`, in nats; forbidden tokens count 0.

    Args:
        logits: float [..., V]; entries may be -inf as long as one is finite.

    Returns:
        [...], in [0, log V].

    Raises:
        AssertionError: `logits` is not float.

    >>> round(float(entropy(jnp.array([0.0, 0.0, -jnp.inf]))), 4)  # log 2
    0.6931
    """
    chex.assert_type(logits, float)
    shifted = _shift(logits)
    weights = jnp.exp(shifted)  # p_v up to their sum: one exp, shared with `log_probs_of` under jit
    total = jnp.sum(weights, axis=-1)
    # Replaced before the product: 0 * -inf is NaN, in the value and in the gradient.
    mean = jnp.sum(weights * jnp.where(weights > 0, shifted, 0), axis=-1) / total
    return jnp.log(total) - mean


def probability_ratio(log_probs: Array, behavior_log_probs: Array) -> Array:
    """How much likelier the policy makes each token than its sampler did: `exp(min(d, 80))`.

    Args:
        log_probs: float, any shape, of the current policy; `d = log_probs - behavior_log_probs`.
        behavior_log_probs: same shape, of the policy that sampled.

    Returns:
        Same shape, in [0, e^80]; NaN stays NaN.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    >>> round(float(probability_ratio(jnp.array(-0.5), jnp.array(-1.0))), 4)
    1.6487
    """
    assert_floats_alike(log_probs, behavior_log_probs)
    return jnp.exp(jnp.minimum(log_probs - behavior_log_probs, MAX_LOG_RATIO))
