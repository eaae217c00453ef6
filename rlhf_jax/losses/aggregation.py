"""From losses per token to the one number that is minimised: who counts for how much."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from rlhf_jax.ops.masked import masked_mean, masked_sum
from rlhf_jax.types import Array

MODES = ("token_mean", "sequence_mean", "sequence_sum", "constant_length")


def aggregate(
    losses: Array, mask: Array, *, mode: str, max_length: int | float | Array | None = None
) -> Array:
    """Reduces losses over the real tokens of N texts, `|y_i|` of them in text i.

    "token_mean": `sum_it l_it / sum_i |y_i|`; every token counts alike (DAPO, PPO).
    "sequence_mean": `sum_i (sum_t l_it / |y_i|) / N`; every text counts alike, and a token of a
    long text less (GRPO).
    "sequence_sum": `sum_it l_it / N`; the gradient of the texts' log-probabilities (REINFORCE).
    "constant_length": `sum_it l_it / (N max_length)`; the same on the scale of a token (Dr. GRPO).

    Args:
        losses: float [B, T], per token; anything may stand on padding.
        mask: bool [B, T], True up to and with the EOS; a row without real tokens is no text.
        mode: one of the four above.
        max_length: > 0, in tokens; only "constant_length" reads it, and needs it.

    Returns:
        Scalar, in the losses' unit; 0 where no token is real.

    Raises:
        AssertionError: ranks, shapes or dtypes disagree.
        ValueError: unknown mode, or "constant_length" without `max_length`.

    Source: "sequence_mean", Eq. 3 of Shao et al. 2024, arXiv:2402.03300; "token_mean", Section 3.3
    of Yu et al. 2025, arXiv:2503.14476; "constant_length", Liu et al. 2025, arXiv:2503.20783.

    >>> losses = jnp.array([[1.0, 3.0], [6.0, 9.0]])
    >>> mask = jnp.array([[True, True], [True, False]])
    >>> [round(float(aggregate(losses, mask, mode=m, max_length=4)), 4) for m in MODES]
    [3.3333, 4.0, 5.0, 1.25]
    """
    chex.assert_rank([losses, mask], 2)
    chex.assert_type([losses, mask], [float, bool])
    if mode == "token_mean":
        return masked_mean(losses, mask)
    texts = jnp.any(mask, axis=1)  # [B]
    if mode == "sequence_mean":
        return masked_mean(masked_mean(losses, mask, axis=1), texts)
    per_text = masked_mean(masked_sum(losses, mask, axis=1), texts)
    if mode == "sequence_sum":
        return per_text
    if mode != "constant_length":
        raise ValueError(f"mode={mode!r}: must be one of {', '.join(MODES)}")
    if max_length is None:
        raise ValueError("mode='constant_length' needs max_length")
    return per_text / max_length
