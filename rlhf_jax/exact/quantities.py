"""How far a policy is from the optimum: sums over listed completions, cheap enough to log."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax.exact.optimum import (
    at_kl,
    at_reward,
    divergence,
    log_partition,
    mean_reward,
    tilt,
)
from rlhf_jax.types import Array, Metrics

LEAST_KL = 1e-4  # nats; below it rounding decides where a policy is


def measure(log_probs: Array, ref: Array, rewards: Array) -> Metrics:
    """What is exactly known of a policy, by metric name; see `gaps` for the rest.

    Args:
        log_probs: [P, S] of the policy, over all completions of P prompts.
        ref: [P, S] of the reference.
        rewards: [P, S].

    Returns:
        Scalars, means over prompts: `exact/reward`, `exact/kl` (nats a text, to the reference),
        `exact/entropy` (nats a text), `exact/beta_eff` and `exact/beta_r2` (see `effective_beta`),
        `exact/above_envelope` (reward above the best there is at this KL; more than rounding is a
        bug) and `exact/kl_efficiency` (the least KL for this reward over the KL; NaN at the
        reference).
    """
    reward, kl = mean_reward(log_probs, rewards), divergence(log_probs, ref)
    slope, fit = effective_beta(log_probs, ref, rewards)
    far = kl > LEAST_KL
    ceiling = mean_reward(at_kl(ref, rewards, kl), rewards)
    cheapest = divergence(at_reward(ref, rewards, reward), ref)
    return {
        "exact/reward": reward,
        "exact/kl": kl,
        "exact/entropy": -jnp.mean(jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)),
        "exact/beta_eff": slope,
        "exact/beta_r2": fit,
        "exact/above_envelope": jnp.where(far, jnp.maximum(reward - ceiling, 0.0), 0.0),
        "exact/kl_efficiency": jnp.where(far, cheapest / jnp.maximum(kl, LEAST_KL), jnp.nan),
    }


def gaps(log_probs: Array, ref: Array, rewards: Array, beta: float | Array) -> Metrics:
    """How far a policy is from the optimum of `J = E[r] - beta KL(pi || ref)`.

    Args:
        log_probs, ref, rewards: as in `measure`.
        beta: > 0, price of a nat.

    Returns:
        Scalars, means over prompts: `exact/objective` (J), `exact/gap` (`J* - J`, which is
        `beta KL(pi || pi*)`), `exact/gap_share` (of the gap of the reference: 1 there, 0 at the
        optimum) and `exact/kl_to_optimum` (`KL(pi || pi*)`, nats a text).

    Source: Korbak et al. 2022, arXiv:2205.11275, for the gap as a divergence.
    """
    to_optimum = divergence(log_probs, tilt(ref, rewards, beta))
    best = beta * jnp.mean(log_partition(ref, rewards, beta))
    room = jnp.maximum(best - mean_reward(ref, rewards), 1e-12)
    return {
        "exact/objective": best - beta * to_optimum,
        "exact/gap": beta * to_optimum,
        "exact/gap_share": beta * to_optimum / room,
        "exact/kl_to_optimum": to_optimum,
    }


def effective_beta(log_probs: Array, ref: Array, rewards: Array) -> tuple[Array, Array]:
    """The price of KL at which the policy would be the optimum, and how well that describes it.

    The slope of `log(pi / ref)` on the reward within each prompt, completions weighted by the
    policy, is `1 / beta_eff`; R^2 is the share of the variance it explains. At the optimum they are
    beta and 1. Whitened rewards, discounting, a wrong mask or temperature all show here.

    Args:
        log_probs, ref, rewards: [P, S].

    Returns:
        `beta_eff` in the unit of the reward a nat (NaN at the reference itself), and R^2 in
        [0, 1].

    >>> ref = jnp.log(jnp.array([[0.5, 0.3, 0.2]]))
    >>> rewards = jnp.array([[1.0, 0.0, 2.0]])
    >>> found = effective_beta(tilt(ref, rewards, 0.5), ref, rewards)
    >>> [round(float(x), 4) for x in found]
    [0.5, 1.0]
    """
    probs = jnp.exp(log_probs)
    mean = lambda x: jnp.sum(probs * x, axis=-1, keepdims=True)
    shift = jnp.where(probs > 0, log_probs - ref, 0.0)
    r, s = rewards - mean(rewards), shift - mean(shift)
    covariance, variance, spread = (jnp.mean(mean(x)) for x in (r * s, r * r, s * s))
    fit = covariance**2 / jnp.maximum(variance * spread, 1e-30)
    return variance / jnp.where(covariance == 0, jnp.nan, covariance), fit
