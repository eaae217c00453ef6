"""Advantage estimators: generalized advantage estimation over time, and baselines over a group.

None of them stops gradients; the train step does.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlhf_jax.types import Array


def gae(rewards: Array, discounts: Array, values: Array, *, gae_lambda: float | Array) -> Array:
    """Generalized advantage estimation over one stream; `jax.vmap` it over a batch.

    `delta_t = r_t + discount_t V_{t+1} - V_t` and
    `A_t = delta_t + discount_t lambda A_{t+1}`, with `A_T = 0`.

    Args:
        rewards: float [T], in points of the reward; `r_t` follows action `t`.
        discounts: float [T], gamma, and 0 where action `t` ends the episode.
        values: float [T + 1], in points; the last one being the bootstrap value.
        gae_lambda: in [0, 1]; 0 gives `delta`, 1 gives the discounted return less `V_t`.

    Returns:
        [T], in points; the returns that `values` should fit are the advantages plus `values[:-1]`.

    Raises:
        AssertionError: ranks or lengths disagree, or an input is not float.

    Source: Eqs. 11, 12 and 16 of Schulman et al. 2015, arXiv:1506.02438.

    >>> rewards, discounts = jnp.array([0.0, 1.0]), jnp.array([1.0, 0.0])
    >>> gae(rewards, discounts, jnp.array([0.5, 0.25, 9.0]), gae_lambda=0.5).tolist()
    [0.125, 0.75]
    """
    chex.assert_rank([rewards, discounts, values], 1)
    chex.assert_type([rewards, discounts, values], float)
    chex.assert_shape(values, (rewards.shape[0] + 1,))
    chex.assert_equal_shape([rewards, discounts])
    deltas = rewards + discounts * values[1:] - values[:-1]  # Eq. 12

    def step(advantage, x):
        delta, decay = x
        advantage = delta + decay * advantage  # Eq. 16, as a recursion
        return advantage, advantage

    zero = jnp.zeros_like(deltas, shape=())
    return jax.lax.scan(step, zero, (deltas, discounts * gae_lambda), reverse=True)[1]


def _center(scores: Array) -> Array:
    chex.assert_type(scores, float)
    if scores.shape[-1] < 2:
        raise ValueError(f"scores has shape {scores.shape}: a group needs at least 2 completions")
    # Relative to the first score, so that equal scores give exactly 0 and not rounding noise,
    # which the division by the standard deviation would blow up.
    relative = scores - scores[..., :1]
    return relative - jnp.mean(relative, axis=-1, keepdims=True)


def dr_grpo_advantages(scores: Array) -> Array:
    """Score less the mean of its group: `s_i - mean(s)`.

    Args:
        scores: float [..., G], the G >= 2 completions of one prompt along the last axis.

    Returns:
        [..., G], in the scores' unit; each group sums to 0.

    Raises:
        AssertionError: `scores` is not float.
        ValueError: the group has fewer than 2 completions.

    Source: Section 3.2 of Liu et al. 2025 (Dr. GRPO), arXiv:2503.20783.

    >>> dr_grpo_advantages(jnp.array([1.0, 0.0, 0.0, 1.0])).tolist()
    [0.5, -0.5, -0.5, 0.5]
    """
    return _center(scores)


def grpo_advantages(scores: Array, *, ddof: int = 0, epsilon: float | Array = 1e-8) -> Array:
    """Score standardised within its group: `(s_i - mean(s)) / (std(s) + epsilon)`.

    Args:
        scores: float [..., G], the G >= 2 completions of one prompt along the last axis.
        ddof: of the standard deviation: 0 divides by G (default), 1 by G - 1 (TRL).
        epsilon: added to the standard deviation, >= 0; TRL has 1e-4.

    Returns:
        [..., G], without unit; 0 where all scores of the group are equal.

    Raises:
        AssertionError: `scores` is not float.
        ValueError: the group has fewer than 2 completions.

    Source: Section 4.1.2 of Shao et al. 2024, arXiv:2402.03300.

    >>> [round(v, 4) for v in grpo_advantages(jnp.array([1.0, 0.0, 0.0, 1.0])).tolist()]
    [1.0, -1.0, -1.0, 1.0]
    """
    centered = _center(scores)
    squares = jnp.sum(jnp.square(centered), axis=-1, keepdims=True)
    var = squares / (scores.shape[-1] - ddof)
    # At equal scores the numerator is 0 whatever the divisor, but sqrt has no gradient at 0.
    return centered / (jnp.sqrt(jnp.where(var > 0, var, 1)) + epsilon)


def rloo_advantages(scores: Array) -> Array:
    """Score less the mean of the others: `s_i - sum_{j != i} s_j / (G - 1)`.

    Args:
        scores: float [..., G], the G >= 2 completions of one prompt along the last axis.

    Returns:
        [..., G], in the scores' unit; each group sums to 0.

    Raises:
        AssertionError: `scores` is not float.
        ValueError: the group has fewer than 2 completions.

    Source: Section 2 of Ahmadian et al. 2024 (RLOO), arXiv:2402.14740.

    >>> rloo_advantages(jnp.array([3.0, 0.0, 0.0])).tolist()
    [3.0, -1.5, -1.5]
    """
    centered = _center(scores)
    size = scores.shape[-1]
    return centered * (size / (size - 1))


def best_of_group(scores: Array) -> Array:
    """1 for the best completion of its group, the first of equals, and 0 for the others.

    As advantages of `reinforce_loss` it is training on the best of G samples.

    Args:
        scores: float [..., G], the G >= 1 completions of one prompt along the last axis.

    Returns:
        [..., G], of the scores' dtype; all NaN where a score of the group is NaN.

    Raises:
        AssertionError: `scores` is not float.

    Source: the ranking step of RAFT, Dong et al. 2023, arXiv:2304.06767.

    >>> best_of_group(jnp.array([1.0, 3.0, 3.0])).tolist()
    [0.0, 1.0, 0.0]
    """
    chex.assert_type(scores, float)
    best = jax.nn.one_hot(jnp.argmax(scores, axis=-1), scores.shape[-1], dtype=scores.dtype)
    # argmax takes a NaN for the largest: a broken score would be the text to imitate.
    return jnp.where(jnp.any(jnp.isnan(scores), axis=-1, keepdims=True), jnp.nan, best)
