"""Losses of a reward model fitted to preference pairs, per pair."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.ops.checks import assert_floats_alike
from rlhf_jax.types import Array


def bradley_terry_loss(
    chosen_scores: Array, rejected_scores: Array, *, margin: float | Array = 0.0
) -> Array:
    """Negative log-likelihood of the preference: `-log sigmoid(chosen - rejected - margin)`.

    Args:
        chosen_scores: float, any shape.
        rejected_scores: same shape.
        margin: scalar or same shape, in units of the score; by how much the chosen text should win.

    Returns:
        Same shape, nats per pair, > 0; log 2 at equal scores and no margin.

    Raises:
        AssertionError: shapes differ, or a score is not float.

    Source: Eq. 1 of Ouyang et al. 2022, arXiv:2203.02155; margin: Eq. 2 of Touvron et al. 2023,
    arXiv:2307.09288.

    >>> round(float(bradley_terry_loss(jnp.array(2.0), jnp.array(1.0))), 4)
    0.3133
    """
    assert_floats_alike(chosen_scores, rejected_scores)
    return -jax.nn.log_sigmoid(chosen_scores - rejected_scores - margin)


def centering_loss(chosen_scores: Array, rejected_scores: Array) -> Array:
    """Pulls the mean score of a pair to 0, which the Bradley-Terry loss leaves free: `(c + r)^2`.

    Args:
        chosen_scores: float, any shape.
        rejected_scores: same shape.

    Returns:
        Same shape, per pair, >= 0; the caller multiplies by a small coefficient.

    Raises:
        AssertionError: shapes differ, or a score is not float.

    Source: Eq. 2 of Eisenstein et al. 2023, arXiv:2312.09244, as cited by TRL.

    >>> float(centering_loss(jnp.array(2.0), jnp.array(-1.0)))
    1.0
    """
    assert_floats_alike(chosen_scores, rejected_scores)
    return jnp.square(chosen_scores + rejected_scores)


def expected_loss(losses: Array, swapped: Array, confidence: Array) -> Array:
    """Mean over the label, where the first text is better with a chance p: `p l + (1 - p) l'`.

    Args:
        losses: float [B], or [2B] where both texts of a pair have a loss of their own (KTO).
        swapped: same shape, with chosen and rejected exchanged.
        confidence: [B], p in [0, 1].

    Returns:
        Shape of `losses`.

    >>> expected_loss(jnp.array([1.0]), jnp.array([3.0]), jnp.array([0.75])).tolist()
    [1.5]
    """
    chance = jnp.tile(confidence, losses.shape[0] // confidence.shape[0])
    return chance * losses + (1.0 - chance) * swapped
