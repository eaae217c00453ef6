"""From one score per completion to a reward and a discount per token."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlhf_jax.ops.masked import last_index
from rlhf_jax.types import Array

PLACEMENTS = ("last_token", "last_slot", "after_eos")


def _slots(mask: Array) -> Array:
    return jax.lax.broadcasted_iota(jnp.int32, mask.shape, 1)  # [B, T]


def _next(mask: Array) -> Array:
    return jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))  # [B, T], False at T - 1


def valued_slots(completion_mask: Array, placement: str) -> Array:
    """Slots that have a value and take part in `gae`; the score falls on the last of them.

    "last_token": the real tokens. "last_slot": all slots. "after_eos": the real tokens and one
    slot more, where there is one; its value is V after the EOS.

    Args:
        completion_mask: bool [B, T], True up to and with the EOS.
        placement: one of the three above.

    Returns:
        bool [B, T]; none in a row without real tokens, except under "last_slot".

    Raises:
        AssertionError: `completion_mask` is not a bool matrix.
        ValueError: unknown placement.

    Source: "after_eos" is `padding_mask_p1` of TRL's PPO.

    >>> mask = jnp.array([[True, True, False, False]])
    >>> valued_slots(mask, "after_eos").tolist()
    [[True, True, True, False]]
    """
    chex.assert_rank(completion_mask, 2)
    chex.assert_type(completion_mask, bool)
    if placement == "last_token":
        return completion_mask
    if placement == "last_slot":
        return jnp.ones_like(completion_mask)
    if placement == "after_eos":
        return completion_mask | jnp.pad(completion_mask[:, :-1], ((0, 0), (1, 0)))
    raise ValueError(f"placement={placement!r}: must be one of {', '.join(PLACEMENTS)}")


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
            T - 1 even where that is padding; "after_eos", on the slot after the last real token,
            on slot T - 1 if there is none. Use the same in `completion_discounts`.

    Returns:
        [B, T]; a row without real tokens earns nothing, except under "last_slot".

    Raises:
        AssertionError: ranks, shapes or dtypes disagree.
        ValueError: unknown placement.

    Source: Eq. 2 of Ziegler et al. 2019, arXiv:1909.08593, whose code uses "last_slot";
    "after_eos" as in TRL's PPO.

    >>> kl, mask = jnp.array([[0.5, 1.0, 7.0, 7.0]]), jnp.array([[True, True, False, False]])
    >>> for placement in PLACEMENTS:
    ...     token_rewards(jnp.array([2.0]), kl, mask, kl_coef=1.0, placement=placement).tolist()
    [[-0.5, 1.0, 0.0, 0.0]]
    [[-0.5, -1.0, 0.0, 2.0]]
    [[-0.5, -1.0, 2.0, 0.0]]
    """
    chex.assert_rank([scores, kl, completion_mask], [1, 2, 2])
    chex.assert_type([scores, kl, completion_mask], [float, float, bool])
    chex.assert_equal_shape([kl, completion_mask])
    chex.assert_equal_shape_prefix([scores, kl], 1)
    valued = valued_slots(completion_mask, placement)
    scored = valued & (_slots(kl) == last_index(valued)[:, None])  # its last slot in each row
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

    "after_eos": `gamma` where the next slot is one of `valued_slots`, 0 elsewhere. The slot after
    the EOS counts as a step: the score is discounted once more, and with `gae_lambda` < 1 it
    reaches the EOS through the value on that slot.

    Args:
        completion_mask: bool [B, T], True up to and with the EOS.
        gamma: in [0, 1], per step.
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
    >>> completion_discounts(mask, 0.5, "after_eos").tolist()
    [[0.5, 0.5, 0.0, 0.0]]
    """
    next_valued = _next(valued_slots(completion_mask, placement))
    if placement == "last_slot":
        gamma = jnp.where(_next(completion_mask), gamma, 1.0)
    return jnp.where(next_valued, gamma, 0.0)
