"""KL divergence from the reference to the policy, KL(policy || reference), and its controllers.

The three estimators take tokens sampled from the policy. Their expectations: k1 and k3 give the
KL exactly, k2 only to second order; as *losses* their gradients differ again.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.ops.checks import assert_floats_alike
from rlhf_jax.ops.distributions import MAX_LOG_RATIO
from rlhf_jax.types import Array


def kl_k1(log_probs: Array, ref_log_probs: Array) -> Array:
    """Unbiased estimate of either sign: `log pi - log ref`.

    Args:
        log_probs: float, any shape, of tokens sampled from the policy.
        ref_log_probs: same shape, of the reference.

    Returns:
        Same shape, nats per token, of either sign.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: Schulman 2020, "Approximating KL Divergence", joschu.net/blog/kl-approx.html, where it
    is `k1`.

    >>> float(kl_k1(jnp.array(-1.0), jnp.array(-1.5)))
    0.5
    """
    assert_floats_alike(log_probs, ref_log_probs)
    return log_probs - ref_log_probs


def kl_k2(log_probs: Array, ref_log_probs: Array) -> Array:
    """Biased estimate of low variance, never negative: `(log pi - log ref)^2 / 2`.

    Args:
        log_probs: float, any shape, of tokens sampled from the policy.
        ref_log_probs: same shape, of the reference.

    Returns:
        Same shape, nats per token, >= 0.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: Schulman 2020, "Approximating KL Divergence", joschu.net/blog/kl-approx.html, where it
    is `k2`.

    >>> float(kl_k2(jnp.array(-1.0), jnp.array(-1.5)))
    0.125
    """
    assert_floats_alike(log_probs, ref_log_probs)
    return 0.5 * jnp.square(log_probs - ref_log_probs)


def kl_k3(log_probs: Array, ref_log_probs: Array) -> Array:
    """Unbiased estimate, never negative: `exp(d) - 1 - d`, `d = log ref - log pi`.

    Args:
        log_probs: float, any shape, of tokens sampled from the policy.
        ref_log_probs: same shape, of the reference.

    Returns:
        Same shape, nats per token, >= 0 up to rounding; `exp(d)` is capped at e^80 so that
        gradients stay finite.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: Schulman 2020, "Approximating KL Divergence", joschu.net/blog/kl-approx.html, where it
    is `k3`.

    >>> round(float(kl_k3(jnp.array(-1.0), jnp.array(-1.5))), 4)  # e^-0.5 - 1 + 0.5
    0.1065
    """
    assert_floats_alike(log_probs, ref_log_probs)
    d = ref_log_probs - log_probs
    return jnp.expm1(jnp.minimum(d, MAX_LOG_RATIO)) - d


def kl_full(logits: Array, ref_logits: Array) -> Array:
    """Exact KL over the vocabulary: `sum_v p_v (log p_v - log q_v)`.

    Args:
        logits: float [..., V] of the policy `p`; entries may be -inf as long as one is finite.
        ref_logits: same shape, of the reference `q`.

    Returns:
        [...], nats per position, >= 0 up to rounding; inf where the policy takes a token the
        reference forbids.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: Eq. 2.26 of Cover and Thomas 2006, "Elements of Information Theory", 2nd edition.

    >>> p, q = jnp.array([0.5, 0.5, 0.0]), jnp.array([0.25, 0.75, 0.0])
    >>> round(float(kl_full(jnp.log(p), jnp.log(q))), 4)  # 0.5 log 2 + 0.5 log 2/3
    0.1438
    """
    assert_floats_alike(logits, ref_logits)
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    ref_log_probs = jax.nn.log_softmax(ref_logits, axis=-1)
    probs = jnp.exp(log_probs)
    # Both are replaced before the subtraction: -inf - -inf is NaN where a token is forbidden.
    d = jnp.where(probs > 0, log_probs, 0) - jnp.where(probs > 0, ref_log_probs, 0)
    return jnp.sum(probs * d, axis=-1)


def ziegler_controller(
    kl_coef: float | Array,
    kl: float | Array,
    *,
    target: float | Array,
    horizon: float | Array,
    num_episodes: float | Array,
) -> Array:
    """Proportional controller: `coef (1 + clip(kl / target - 1, -0.2, 0.2) n / horizon)`.

    Args:
        kl_coef: current coefficient, in reward per nat, > 0.
        kl: measured KL in nats per *sequence* (summed over tokens, mean over episodes).
        target: wanted KL, same unit, > 0.
        horizon: episodes over which an error at the clip moves the coefficient by a fifth, > 0.
        num_episodes: episodes `n` since the last call.

    Returns:
        The next coefficient, in reward per nat.

    Raises:
        Nothing; a `target` or `horizon` of 0 gives inf or NaN.

    Source: Section 2.2 of Ziegler et al. 2019, arXiv:1909.08593, and its code for `n / horizon`.

    >>> round(float(ziegler_controller(0.1, 9.0, target=6.0, horizon=100, num_episodes=50)), 4)
    0.11
    """
    error = jnp.clip(kl / target - 1, -0.2, 0.2)
    return kl_coef * (1 + error * num_episodes / horizon)


def schulman_controller(
    kl_coef: float | Array, kl: float | Array, *, target: float | Array
) -> Array:
    """Doubling controller: `coef / 2` if `kl < target / 1.5`, `2 coef` if `kl > 1.5 target`.

    Args:
        kl_coef: current coefficient, in reward per nat, > 0.
        kl: measured KL, in the unit of `target`; NaN leaves the coefficient as it is.
        target: wanted KL, > 0.

    Returns:
        The next coefficient, in reward per nat.

    Raises:
        Nothing; a NaN or a sign that makes no sense is the caller's to catch.

    Source: Section 4 of Schulman et al. 2017, arXiv:1707.06347.

    >>> float(schulman_controller(1.0, 0.1, target=0.01))
    2.0
    """
    scale = jnp.where(kl > 1.5 * target, 2.0, jnp.where(kl < target / 1.5, 0.5, 1.0))
    return kl_coef * scale
