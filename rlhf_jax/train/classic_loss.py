"""The loss of one minibatch of environment steps: surrogate, values and entropy."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax.config import ClassicPPOConfig
from rlhf_jax.losses.ppo import approx_kl, clip_fraction, value_loss
from rlhf_jax.models.functional import Model
from rlhf_jax.ops.distributions import probability_ratio
from rlhf_jax.ops.masked import masked_whiten
from rlhf_jax.ops.policies import Policy
from rlhf_jax.train.policy_loss import CLIPPING, clip_range, step_loss
from rlhf_jax.types import Array, Metrics, Params, record


@record
class Steps:
    """Environment steps [N] as they are learnt from."""

    observations: Array  # [N, ...]
    actions: Array
    behavior_log_probs: Array
    behavior: Policy
    behavior_values: Array
    advantages: Array
    returns: Array  # targets of the values


def minibatch_loss(
    model: Model, config: ClassicPPOConfig, extra: dict[str, Array], params: Params, steps: Steps
) -> tuple[Array, Metrics]:
    """Policy, value and entropy terms; `extra` holds the coefficients that move."""
    policy, values = model.apply(params, steps.observations)
    log_probs = policy.log_prob(steps.actions)
    advantages = steps.advantages
    if config.whiten_advantages == "minibatch":
        advantages = whitened(config, advantages)
    kl = lambda: steps.behavior.kl(policy)  # pyright: ignore[reportArgumentType]
    old = steps.behavior_log_probs
    losses = step_loss(config, log_probs, old, advantages, kl, extra["penalty_coef"])
    surrogate, spread = jnp.mean(losses), jnp.mean(policy.entropy())
    value, acted = value_terms(config, values, steps)
    loss = surrogate - extra["entropy_coef"] * spread + config.vf_coef * value
    metrics = {
        "loss/total": loss,
        "loss/policy_avg": surrogate,
        "loss/value_avg": value,
        "val/clipfrac_avg": acted,
        "policy/entropy_avg": spread,
    }
    return loss, metrics | watch_ratio(config, log_probs, advantages, steps)


def whitened(config: ClassicPPOConfig, advantages: Array) -> Array:
    """Mean 0 and variance 1 over all of them."""
    ddof = 1 if config.whiten_variance == "unbiased" else 0
    return masked_whiten(advantages, jnp.ones_like(advantages, bool), ddof=ddof)


def value_terms(config: ClassicPPOConfig, values: Array, steps: Steps) -> tuple[Array, Array]:
    """Mean value loss, and how often the clip acted."""
    delta = config.huber_delta if config.value_loss == "huber" else None
    plain = value_loss(values, steps.behavior_values, steps.returns, huber_delta=delta)
    if not config.clip_value:
        return jnp.mean(plain), jnp.zeros_like(plain, shape=())
    clip = config.value_clip_eps
    losses = value_loss(values, steps.behavior_values, steps.returns, clip=clip, huber_delta=delta)
    return jnp.mean(losses), jnp.mean((losses > plain).astype(values.dtype))


def watch_ratio(
    config: ClassicPPOConfig, log_probs: Array, advantages: Array, steps: Steps
) -> Metrics:
    """How far the policy has moved from the one that played."""
    old = steps.behavior_log_probs
    ratio = probability_ratio(log_probs, old)
    clipped = jnp.zeros_like(ratio)
    if config.surrogate in CLIPPING:
        clipped = clip_fraction(log_probs, old, advantages, **clip_range(config))
    return {
        "policy/approxkl_avg": jnp.mean(approx_kl(log_probs, old)),
        "policy/clipfrac_avg": jnp.mean(clipped),
        "val/ratio": jnp.mean(ratio),
        "val/ratio_max": jnp.max(ratio),
        "val/ratio_error": jnp.max(jnp.abs(ratio - 1.0)),
    }
