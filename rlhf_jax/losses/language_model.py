"""Next-token losses, per token."""

from __future__ import annotations

import chex

from rlhf_jax.ops.distributions import log_probs_of
from rlhf_jax.types import Array


def cross_entropy(logits: Array, tokens: Array) -> Array:
    """Negative log-likelihood of each token: `-log softmax(logits_t)[tokens_t]`, in nats.

    `logits[:, t]` must predict `tokens[:, t]`; the caller shifts, as in
    `cross_entropy(logits[:, :-1], tokens[:, 1:])`.

    Args:
        logits: float [B, L, V].
        tokens: integer [B, L], in [0, V).

    Returns:
        [B, L], >= 0, not reduced: padding is the caller's to mask.

    Raises:
        AssertionError: ranks, shapes or dtypes disagree.

    >>> import jax.numpy as jnp
    >>> round(float(cross_entropy(jnp.zeros((1, 1, 4)), jnp.array([[3]]))[0, 0]), 4)  # log 4
    1.3863
    """
    chex.assert_rank([logits, tokens], [3, 2])
    return -log_probs_of(logits, tokens)
