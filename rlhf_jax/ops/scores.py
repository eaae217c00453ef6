"""Shaping of one score per completion, before any of it is spread over tokens."""

from __future__ import annotations

import chex
import jax.numpy as jnp

from rlhf_jax.types import Array


def _finished(
    scores: Array, completion_tokens: Array, completion_mask: Array, eos_id: int | Array
) -> Array:
    chex.assert_rank([scores, completion_tokens, completion_mask], [1, 2, 2])
    chex.assert_type([scores, completion_tokens, completion_mask], [float, int, bool])
    chex.assert_equal_shape([completion_tokens, completion_mask])
    chex.assert_equal_shape_prefix([scores, completion_tokens], 1)
    return jnp.any((completion_tokens == eos_id) & completion_mask, axis=1)  # [B]


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

    Source: `missing_eos_penalty` of TRL.

    >>> tokens, mask = jnp.array([[4, 2], [4, 4]]), jnp.ones((2, 2), bool)
    >>> missing_eos_penalty(jnp.array([3.0, 3.0]), tokens, mask, eos_id=2, penalty=1.0).tolist()
    [3.0, 2.0]
    """
    finished = _finished(scores, completion_tokens, completion_mask, eos_id)
    return scores - jnp.where(finished, 0.0, penalty)


def missing_eos_replacement(
    scores: Array,
    completion_tokens: Array,
    completion_mask: Array,
    *,
    eos_id: int | Array,
    value: float | Array,
) -> Array:
    """Sets the score of unfinished completions: `value` where no EOS was sampled.

    Unlike `missing_eos_penalty` it forgets how good the text was.

    Args:
        scores: float [B].
        completion_tokens: integer [B, T].
        completion_mask: bool [B, T]; an EOS on padding does not count, so pad and EOS may share
            an id.
        eos_id: id of the end-of-sequence token.
        value: in units of the score; -1 in the source.

    Returns:
        [B]; a score that is replaced may be NaN.

    Raises:
        AssertionError: ranks, shapes or dtypes disagree.

    Source: Huang et al. 2024, arXiv:2403.17031.

    >>> tokens, mask = jnp.array([[4, 2], [4, 4]]), jnp.ones((2, 2), bool)
    >>> missing_eos_replacement(jnp.array([3.0, 3.0]), tokens, mask, eos_id=2, value=-1.0).tolist()
    [3.0, -1.0]
    """
    finished = _finished(scores, completion_tokens, completion_mask, eos_id)
    return jnp.where(finished, scores, value)


def overlong_penalty(lengths: Array, *, max_length: float | Array, buffer: float | Array) -> Array:
    """Soft punishment of length: `clip((max_length - buffer - |y|) / buffer, -1, 0)`.

    0 up to `max_length - buffer`, falling linearly to -1 at `max_length`, and -1 beyond. The
    caller multiplies it by a price and adds it to the score.

    Args:
        lengths: float, any shape, in tokens; of the scores' dtype.
        max_length: > 0, in tokens.
        buffer: in (0, max_length], in tokens.

    Returns:
        Same shape, in [-1, 0].

    Raises:
        AssertionError: `lengths` is not float.

    Source: Eq. 13 of Yu et al. 2025 (DAPO), arXiv:2503.14476.

    >>> overlong_penalty(jnp.array([6.0, 7.0, 10.0, 12.0]), max_length=10, buffer=4).tolist()
    [0.0, -0.25, -1.0, -1.0]
    """
    chex.assert_type(lengths, float)
    return jnp.clip((max_length - buffer - lengths) / buffer, -1.0, 0.0)


def informative_groups(scores: Array) -> Array:
    """Groups a baseline of their own can learn from: those whose scores are not all equal.

    Where all are equal, `grpo_advantages` and its kin are 0 and the group only dilutes the batch.

    Args:
        scores: float [N, G], the G completions of one prompt along the last axis.

    Returns:
        bool [N]; True for a group with a NaN, which must not vanish unseen.

    Raises:
        AssertionError: `scores` is not a float matrix.

    Source: dynamic sampling, Section 3.2 of Yu et al. 2025 (DAPO), arXiv:2503.14476.

    >>> informative_groups(jnp.array([[1.0, 0.0], [1.0, 1.0]])).tolist()
    [True, False]
    """
    chex.assert_rank(scores, 2)
    chex.assert_type(scores, float)
    return jnp.any(scores != scores[:, :1], axis=1)
