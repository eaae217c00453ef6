"""Policy losses other than PPO's clip, per token: what becomes of the probability ratio.

With `d = log_probs - behavior_log_probs` and the ratio `r = exp(d)`, capped as in
`probability_ratio` so that gradients stay finite. On the sampling policy itself (`d = 0`) all of
them have the gradient `-A` of REINFORCE. None stops the gradient of the advantages; the train step
does.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlhf_jax.losses.ppo import ppo_clip_loss
from rlhf_jax.ops.checks import assert_floats_alike
from rlhf_jax.ops.distributions import probability_ratio
from rlhf_jax.ops.masked import masked_mean
from rlhf_jax.types import Array


def no_clip_loss(log_probs: Array, behavior_log_probs: Array, advantages: Array) -> Array:
    """Importance-weighted surrogate with nothing to hold it back: `-A r`.

    Args:
        log_probs: float, any shape, of the current policy.
        behavior_log_probs: same shape, of the policy that sampled.
        advantages: same shape.

    Returns:
        Same shape, per token.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: Eq. 6 of Schulman et al. 2017, arXiv:1707.06347.

    >>> log_probs = jnp.log(jnp.array([2.0, 0.5]))
    >>> no_clip_loss(log_probs, jnp.zeros(2), jnp.array([1.0, -1.0])).tolist()
    [-2.0, 0.5]
    """
    assert_floats_alike(log_probs, behavior_log_probs, advantages)
    return -advantages * probability_ratio(log_probs, behavior_log_probs)


def log_clip_loss(
    log_probs: Array,
    behavior_log_probs: Array,
    advantages: Array,
    *,
    clip_low: float | Array,
    clip_high: float | Array,
) -> Array:
    """The clip in log space: `-min(A d, A clip(d, log(1 - clip_low), log(1 + clip_high)))`.

    Clips the same tokens as `ppo_clip_loss`, but inside the clip the gradient is `-A` and not
    `-A r`: a token the policy has made likelier does not count for more.

    Args:
        log_probs: float, any shape, of the current policy.
        behavior_log_probs: same shape, of the policy that sampled.
        advantages: same shape.
        clip_low: in [0, 1), of the ratio.
        clip_high: >= 0, of the ratio.

    Returns:
        Same shape, per token; 0 at `d = 0`, where `ppo_clip_loss` is `-A`.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: named, without an equation, in Section 6.1 of Schulman et al. 2017, arXiv:1707.06347.

    >>> log_probs = jnp.log(jnp.array([1.25, 2.0]))
    >>> loss = log_clip_loss(log_probs, jnp.zeros(2), jnp.ones(2), clip_low=0.5, clip_high=0.5)
    >>> [round(v, 4) for v in loss.tolist()]  # -log 1.25, -log 1.5
    [-0.2231, -0.4055]
    """
    assert_floats_alike(log_probs, behavior_log_probs, advantages)
    d = log_probs - behavior_log_probs
    clipped = jnp.clip(d, jnp.log1p(-clip_low), jnp.log1p(clip_high))
    return -jnp.minimum(advantages * d, advantages * clipped)


def cispo_loss(
    log_probs: Array, behavior_log_probs: Array, advantages: Array, *, clip_high: float | Array
) -> Array:
    """REINFORCE with a truncated importance weight: `-min(r, 1 + clip_high) A log pi`.

    The weight is a constant to the gradient, so truncating it shortens a token's step and never
    takes the gradient away, as PPO's clip does.

    Args:
        log_probs: float, any shape, of the current policy.
        behavior_log_probs: same shape, of the policy that sampled.
        advantages: same shape.
        clip_high: > -1, of the ratio; there is no clip from below, as in the paper's experiments.

    Returns:
        Same shape, per token.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: CISPO of MiniMax 2025, arXiv:2506.13585.

    >>> log_probs, behavior = jnp.array([-1.0]), jnp.array([-3.0])
    >>> cispo_loss(log_probs, behavior, jnp.ones(1), clip_high=1.0).tolist()  # weight 2, not e^2
    [2.0]
    """
    assert_floats_alike(log_probs, behavior_log_probs, advantages)
    weight = jnp.minimum(probability_ratio(log_probs, behavior_log_probs), 1 + clip_high)
    return -jax.lax.stop_gradient(weight) * advantages * log_probs


def sequence_log_ratio(log_probs: Array, behavior_log_probs: Array, mask: Array) -> Array:
    """Mean log-ratio of each text: `sum_t d_t / |y|` over its real tokens.

    Args:
        log_probs: float [B, T], of the current policy; anything may stand on padding.
        behavior_log_probs: float [B, T], of the policy that sampled.
        mask: bool [B, T], True up to and with the EOS.

    Returns:
        [B], nats per token; 0 for a row without real tokens.

    Raises:
        AssertionError: ranks, shapes or dtypes disagree.

    Source: the exponent of Eq. 7 of Zheng et al. 2025 (GSPO), arXiv:2507.18071.

    >>> mask = jnp.array([[True, True, False]])
    >>> sequence_log_ratio(jnp.array([[-1.0, -2.0, 9.0]]), jnp.full((1, 3), -2.0), mask).tolist()
    [0.5]
    """
    assert_floats_alike(log_probs, behavior_log_probs)
    chex.assert_rank([log_probs, mask], 2)
    chex.assert_type(mask, bool)
    return masked_mean(log_probs - behavior_log_probs, mask, axis=1)


def gspo_loss(
    log_probs: Array,
    behavior_log_probs: Array,
    advantages: Array,
    mask: Array,
    *,
    clip_low: float | Array,
    clip_high: float | Array,
) -> Array:
    """PPO's clip on one ratio per text: `max(-A s, -A clip(s, 1 - clip_low, 1 + clip_high))`.

    With `s = exp(sum_t d_t / |y|)`, the geometric mean of the tokens' ratios, so a text is clipped
    as a whole. Its mean over rows of token means (`aggregate` with "sequence_mean") is GSPO's.

    Args:
        log_probs: float [B, T], of the current policy; anything may stand on padding.
        behavior_log_probs: float [B, T], of the policy that sampled.
        advantages: float [B, T], one number a row in the paper; where they differ within a row,
            the gradient of every token is their mean over the row (a clipped one counts as 0).
        mask: bool [B, T], True up to and with the EOS.
        clip_low: in [0, 1); far below PPO's, the paper has 3e-4.
        clip_high: >= 0; the paper has 4e-4.

    Returns:
        [B, T], per token; 0 on padding.

    Raises:
        AssertionError: ranks, shapes or dtypes disagree.

    Source: Eqs. 5 and 7 of Zheng et al. 2025, arXiv:2507.18071.

    >>> log_probs, mask = jnp.log(jnp.array([[4.0, 1.0]])), jnp.ones((1, 2), bool)
    >>> args = log_probs, jnp.zeros((1, 2)), jnp.ones((1, 2)), mask
    >>> [round(v, 4) for v in gspo_loss(*args, clip_low=0.5, clip_high=1.5)[0].tolist()]
    [-2.0, -2.0]
    """
    assert_floats_alike(log_probs, behavior_log_probs, advantages)
    log_ratio = sequence_log_ratio(log_probs, behavior_log_probs, mask)  # [B]
    shared = jnp.broadcast_to(log_ratio[:, None], log_probs.shape)  # [B, T]
    # All tokens share the ratio: a NaN advantage on padding would reach it through the gradient.
    kept = jnp.where(mask, advantages, 0)
    clip = {"clip_low": clip_low, "clip_high": clip_high}
    return ppo_clip_loss(shared, jnp.zeros_like(shared), kept, **clip)


def reinforce_loss(log_probs: Array, advantages: Array) -> Array:
    """The score-function surrogate without importance weights: `-A log pi`.

    Its gradient is the policy gradient only on samples of the current policy.

    Args:
        log_probs: float, any shape, of the current policy.
        advantages: same shape.

    Returns:
        Same shape, per token; only its gradient means something.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: Williams 1992, "Simple statistical gradient-following algorithms for connectionist
    reinforcement learning", Machine Learning 8.

    >>> reinforce_loss(jnp.array([-2.0]), jnp.array([0.5])).tolist()
    [1.0]
    """
    assert_floats_alike(log_probs, advantages)
    return -advantages * log_probs


def kl_penalty_loss(
    log_probs: Array,
    behavior_log_probs: Array,
    advantages: Array,
    kl: Array,
    *,
    penalty_coef: float | Array,
) -> Array:
    """Surrogate held back by a penalty in place of a clip: `-A r + penalty_coef kl`.

    Args:
        log_probs: float, any shape, of the current policy.
        behavior_log_probs: same shape, of the policy that sampled.
        advantages: same shape.
        kl: same shape, KL(behavior || policy) in nats per token, a function of the policy: exact,
            `kl_full(behavior_logits, logits)`, or `kl_k3(behavior_log_probs, log_probs)`.
        penalty_coef: >= 0, in units of the advantage per nat.

    Returns:
        Same shape, per token.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: Eq. 8 of Schulman et al. 2017, arXiv:1707.06347; `schulman_controller` adapts the
    coefficient between updates.

    >>> args = jnp.log(jnp.array([2.0])), jnp.zeros(1), jnp.ones(1), jnp.array([0.25])
    >>> kl_penalty_loss(*args, penalty_coef=4.0).tolist()
    [-1.0]
    """
    assert_floats_alike(log_probs, kl)
    return no_clip_loss(log_probs, behavior_log_probs, advantages) + penalty_coef * kl
