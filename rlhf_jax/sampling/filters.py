"""Which tokens may be drawn: end-of-sequence rules, top-k and top-p."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.types import Array

FORBIDDEN = -1e9  # finite, so that softmax and its gradient stay finite


def forbid_end(logits: Array, eos: int, min_length: int) -> Array:
    """Forbids the end of a text at the first `min_length` positions of `logits` [B, T, V].

    There it is never drawn, so in training, too, it must have no probability: else a policy could
    move its own there unseen. An `eos` of -1 is no token.

    >>> kept = forbid_end(jnp.zeros((1, 2, 3)), 2, 1) > FORBIDDEN
    >>> kept[0].tolist()
    [[True, True, False], [True, True, True]]
    """
    if min_length == 0:
        return logits
    early = jnp.arange(logits.shape[1]) < min_length
    ends = jnp.arange(logits.shape[2]) == eos
    return jnp.where((early[:, None] & ends[None, :])[None], FORBIDDEN, logits)


def forbid(logits: Array, token: int, when: Array) -> Array:
    """Forbids one token of `logits` [B, V] in the rows (or everywhere) where `when` holds."""
    hit = (jnp.arange(logits.shape[-1]) == token)[None, :] & jnp.reshape(when, (-1, 1))
    return jnp.where(hit, FORBIDDEN, logits)


def top_k(logits: Array, k: int) -> Array:
    """Keeps the `k` largest of `logits` [B, V] and those equal to the last of them; 0 keeps all.

    >>> top_k(jnp.array([[0.0, 2.0, 1.0]]), 2)[0, 0] == FORBIDDEN
    Array(True, dtype=bool)
    """
    if k <= 0 or k >= logits.shape[-1]:
        return logits
    threshold = jax.lax.top_k(logits, k)[0][:, -1:]
    return jnp.where(logits < threshold, FORBIDDEN, logits)


def top_p(logits: Array, p: float) -> Array:
    """Keeps the smallest set of tokens with probability at least `p` (Holtzman et al. 2020, eq. 2).

    The likeliest token is always kept. `logits` [B, V]; `p` in (0, 1], 1 keeps all.

    >>> kept = top_p(jnp.log(jnp.array([[0.5, 0.3, 0.2]])), 0.6)
    >>> (kept > FORBIDDEN)[0].tolist()
    [True, True, False]
    """
    if p >= 1.0:
        return logits
    ordered = jnp.sort(logits, axis=-1, descending=True)
    probs = jax.nn.softmax(ordered, axis=-1)
    before = jnp.cumsum(probs, axis=-1) - probs  # mass of the strictly likelier tokens
    kept = jnp.sum(before < p, axis=-1, keepdims=True)
    threshold = jnp.take_along_axis(ordered, kept - 1, axis=-1)
    return jnp.where(logits < threshold, FORBIDDEN, logits)
