"""From one score per completion to a reward and a discount per token."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlhf_jax.ops.masked import last_index
from rlhf_jax.types import Array

PLACEMENTS = ("last_token", "last_slot")


def _check_placement(placement: str) -> None:
    if placement not in PLACEMENTS:
        raise ValueError(f"placement={placement!r}: must be one of {', '.join(PLACEMENTS)}")


def _slots(mask: Array) -> Array:
    return jax.lax.broadcasted_iota(jnp.int32, mask.shape, 1)  # [B, T]


def token_rewards(
    scores: Array,
    kl: Array,
    completion_mask: Array,
    *,
    kl_coef: float | Array,
    placement: str = "last_token",
) -> Array:
    """Per-token reward: `r_t = -kl_coef kl_t` on real tokens, plus the score at one slot.

    Args:
        scores: float [B], one per completion.
        kl: float [B, T], nats per token; anything may stand on padding.
        completion_mask: bool [B, T], True up to and with the EOS.
        kl_coef: >= 0, reward per nat.
        placement: "last_token", the score falls on the last real token; "last_slot", on slot
            T - 1 even where that is padding. Use the same in `completion_discounts`.

    Returns:
        [B, T]; a row without real tokens earns nothing under "last_token".

    Raises:
        AssertionError: ranks, shapes or dtypes disagree.
        ValueError: unknown placement.

    Source: Eq. 2 of Ziegler et al. 2019, arXiv:1909.08593, whose code uses "last_slot".

    >>> kl, mask = jnp.array([[0.5, 1.0, 7.0]]), jnp.array([[True, True, False]])
    >>> token_rewards(jnp.array([2.0]), kl, mask, kl_coef=1.0).tolist()
    [[-0.5, 1.0, 0.0]]
    >>> token_rewards(jnp.array([2.0]), kl, mask, kl_coef=1.0, placement="last_slot").tolist()
    [[-0.5, -1.0, 2.0]]
    """
    _check_placement(placement)
    chex.assert_rank([scores, kl, completion_mask], [1, 2, 2])
    chex.assert_type([scores, kl, completion_mask], [float, float, bool])
    chex.assert_equal_shape([kl, completion_mask])
    chex.assert_equal_shape_prefix([scores, kl], 1)
    if placement == "last_token":
        scored = (_slots(kl) == last_index(completion_mask)[:, None]) & completion_mask
    else:
        scored = _slots(kl) == kl.shape[1] - 1
    penalty = kl_coef * jnp.where(completion_mask, kl, 0)
    return jnp.where(scored, scores[:, None], 0) - penalty


def completion_discounts(
    completion_mask: Array, gamma: float | Array, placement: str = "last_token"
) -> Array:
    """Discounts that let `gae` carry the score of `token_rewards` back to every real token.

    "last_token": `gamma` where the next slot is a real token, 0 elsewhere; the episode ends on
    the last real token and padding is outside it.

    "last_slot": `gamma` where the next slot is a real token, 1 where it is padding, 0 at slot
    T - 1. Padding is waiting, not acting, so no time is discounted there, and the return of every
    real token equals that of "last_token". With `gae_lambda` = 1 so does its advantage, whatever
    the values on padding are. With `gae_lambda` < 1 the score reaches the last real token scaled by
    `gae_lambda` to the number of pads, and the rest comes from the values on padding: these must
    then be trained towards the score, as they are where all T slots count (Ziegler et al.).

    Args:
        completion_mask: bool [B, T], True up to and with the EOS.
        gamma: in [0, 1], per real token.
        placement: as in `token_rewards`.

    Returns:
        float [B, T].

    Raises:
        AssertionError: `completion_mask` is not a bool matrix.
        ValueError: unknown placement.

    >>> mask = jnp.array([[True, True, False, False]])
    >>> completion_discounts(mask, 0.5).tolist()
    [[0.5, 0.0, 0.0, 0.0]]
    >>> completion_discounts(mask, 0.5, "last_slot").tolist()
    [[0.5, 1.0, 1.0, 0.0]]
    """
    _check_placement(placement)
    chex.assert_rank(completion_mask, 2)
    chex.assert_type(completion_mask, bool)
    next_is_real = jnp.pad(completion_mask[:, 1:], ((0, 0), (0, 1)))  # [B, T], False at T - 1
    if placement == "last_token":
        return jnp.where(next_is_real, gamma, 0.0)
    ends = _slots(completion_mask) == completion_mask.shape[1] - 1
    return jnp.where(ends, 0.0, jnp.where(next_is_real, gamma, 1.0))


def missing_eos_penalty(
    scores: Array,
    completion_tokens: Array,
    completion_mask: Array,
    *,
    eos_id: int | Array,
    penalty: float | Array,
) -> Array:
    """Lowers the score of unfinished completions: `score - penalty` where no EOS was sampled.

    Args:
        scores: float [B].
        completion_tokens: integer [B, T].
        completion_mask: bool [B, T]; an EOS on padding does not count, so pad and EOS may share
            an id.
        eos_id: id of the end-of-sequence token.
        penalty: >= 0, in units of the score.

    Returns:
        [B].

    Raises:
        AssertionError: ranks, shapes or dtypes disagree.

    Source: `missing_eos_penalty` of TRL. The original sets the score to -1 instead of subtracting
    (Huang et al. 2024, arXiv:2403.17031).

    >>> tokens, mask = jnp.array([[4, 2], [4, 4]]), jnp.ones((2, 2), bool)
    >>> missing_eos_penalty(jnp.array([3.0, 3.0]), tokens, mask, eos_id=2, penalty=1.0).tolist()
    [3.0, 2.0]
    """
    chex.assert_rank([scores, completion_tokens, completion_mask], [1, 2, 2])
    chex.assert_type([scores, completion_tokens, completion_mask], [float, int, bool])
    chex.assert_equal_shape([completion_tokens, completion_mask])
    chex.assert_equal_shape_prefix([scores, completion_tokens], 1)
    finished = jnp.any((completion_tokens == eos_id) & completion_mask, axis=1)  # [B]
    return scores - jnp.where(finished, 0.0, penalty)
