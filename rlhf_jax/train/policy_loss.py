"""The loss of one minibatch: surrogate, values, KL to the reference and entropy."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from rlhf_jax.config import ClassicPPOConfig, PolicyGradientConfig, RLHFConfig
from rlhf_jax.losses.aggregation import aggregate
from rlhf_jax.losses.policy_gradient import (
    cispo_loss,
    gspo_loss,
    kl_penalty_loss,
    log_clip_loss,
    no_clip_loss,
    reinforce_loss,
    sequence_log_ratio,
)
from rlhf_jax.losses.ppo import approx_kl, clip_fraction, ppo_clip_loss, value_loss
from rlhf_jax.models.functional import Model
from rlhf_jax.ops.distributions import entropy, log_probs_of, probability_ratio
from rlhf_jax.ops.kl import kl_full
from rlhf_jax.ops.masked import masked_mean, masked_var
from rlhf_jax.ops.shaping import valued_slots
from rlhf_jax.rollout.text import Experience, completion_outputs
from rlhf_jax.train.experience import estimated_kl
from rlhf_jax.train.state import policy_gradient
from rlhf_jax.types import Array, Metrics, Params

CLIPPING = ("clip", "asymmetric_clip", "dual_clip", "log_clip", "cispo", "gspo")


def minibatch_loss(
    model: Model, config: RLHFConfig, extra: dict[str, Array], params: Params, batch: Experience
) -> tuple[Array, Metrics]:
    """Policy, value, KL and entropy terms; `extra` holds the coefficients that move."""
    algo, mask = policy_gradient(config), batch.rollout.completion_mask
    logits, values = completion_outputs(model, params, batch.rollout, config)
    log_probs = jnp.where(mask, log_probs_of(logits, batch.rollout.completion_tokens), 0.0)
    total = lambda x: aggregate(x, batch.learnt, mode=algo.aggregation, max_length=mask.shape[1])
    policy = total(surrogate_loss(algo, log_probs, logits, batch, extra["penalty_coef"]))
    spread = masked_mean(entropy(logits), batch.learnt)
    loss = policy - algo.entropy_coef * spread
    metrics = {"loss/policy_avg": policy, "policy/entropy_avg": spread}
    if algo.kl_placement == "loss":
        kl = total(reference_kl(algo, log_probs, logits, batch))
        loss = loss + extra["kl_coef"] * kl
        metrics["loss/kl_avg"] = kl
    if algo.critic:
        value, watched = value_terms(algo, values, batch)
        loss = loss + algo.vf_coef * value
        metrics |= watched
    return loss, metrics | watch_ratio(algo, log_probs, batch)


def clip_range(algo: PolicyGradientConfig | ClassicPPOConfig) -> dict[str, float]:
    """Lower and upper width of the clip; the upper is the lower unless it is given."""
    high = algo.clip_eps if algo.clip_eps_high is None else algo.clip_eps_high
    return {"clip_low": algo.clip_eps, "clip_high": high}


def surrogate_loss(
    algo: PolicyGradientConfig,
    log_probs: Array,
    logits: Array,
    batch: Experience,
    penalty_coef: Array | float,
) -> Array:
    """The policy's loss per token [B, T], by the surrogate asked for."""
    old, advantages = batch.rollout.behavior_log_probs, batch.advantages
    if algo.log_ratio_clip is not None and algo.surrogate != "reinforce":
        log_probs = old + jnp.clip(log_probs - old, -algo.log_ratio_clip, algo.log_ratio_clip)
    if algo.surrogate == "cispo":
        return cispo_loss(log_probs, old, advantages, clip_high=clip_range(algo)["clip_high"])
    if algo.surrogate == "gspo":
        return gspo_loss(log_probs, old, advantages, batch.learnt, **clip_range(algo))
    kl = lambda: kl_full(behavior_logits(batch), logits)
    return step_loss(algo, log_probs, old, advantages, kl, penalty_coef)


def step_loss(
    algo: PolicyGradientConfig | ClassicPPOConfig,
    log_probs: Array,
    old: Array,
    advantages: Array,
    kl: Callable[[], Array],
    penalty_coef: Array | float,
) -> Array:
    """A surrogate of single steps, of any shape; `kl()` is that of the behaviour to the policy."""
    clip = clip_range(algo)
    match algo.surrogate:
        case "dual_clip":
            return ppo_clip_loss(log_probs, old, advantages, **clip, dual_clip=algo.dual_clip)
        case "none":
            return no_clip_loss(log_probs, old, advantages)
        case "log_clip":
            return log_clip_loss(log_probs, old, advantages, **clip)
        case "kl_penalty" | "adaptive_kl_penalty":
            return kl_penalty_loss(log_probs, old, advantages, kl(), penalty_coef=penalty_coef)
        case "reinforce":
            return reinforce_loss(log_probs, advantages)
    return ppo_clip_loss(log_probs, old, advantages, **clip)


def behavior_logits(batch: Experience) -> Array:
    """The sampler's logits, which the penalty on KL(behaviour || policy) needs."""
    assert batch.behavior_logits is not None
    return batch.behavior_logits


def reference_kl(
    algo: PolicyGradientConfig, log_probs: Array, logits: Array, batch: Experience
) -> Array:
    """KL to the reference per token [B, T], differentiable.

    With `kl_importance` it is multiplied by the probability ratio: then the gradients of k1, k3 and
    the full KL have the mean of the token KL's although the tokens came from an earlier policy, and
    although the sampled estimators' own derivative leaves out that of the sampling. That of k2,
    right without it where the policy sampled, becomes wrong.
    """
    kl = estimated_kl(algo, log_probs, batch.ref_log_probs, logits, batch.ref_logits)
    if algo.kl_importance:
        kl = kl * probability_ratio(log_probs, batch.rollout.behavior_log_probs)
    return kl


def value_terms(
    algo: PolicyGradientConfig, values: Array, batch: Experience
) -> tuple[Array, Metrics]:
    """Mean value loss over the slots that have a value, and how often the clip acted."""
    slots = valued_slots(batch.rollout.completion_mask, algo.score_placement)
    slots = slots & jnp.any(batch.learnt, axis=1, keepdims=True)
    delta = algo.huber_delta if algo.value_loss == "huber" else None
    clip = algo.value_clip_eps if algo.clip_value else None
    losses = value_loss(values, batch.values, batch.returns, clip=clip, huber_delta=delta)
    unclipped = value_loss(values, batch.values, batch.returns, huber_delta=delta)
    value = masked_mean(losses, slots)
    acted = masked_mean((losses > unclipped).astype(values.dtype), slots)
    return value, {"loss/value_avg": value, "val/clipfrac_avg": acted}


def watch_ratio(algo: PolicyGradientConfig, log_probs: Array, batch: Experience) -> Metrics:
    """How far the policy has moved from the one that sampled."""
    old, mask = batch.rollout.behavior_log_probs, batch.learnt
    ratio = probability_ratio(log_probs, old)
    mean = lambda x: masked_mean(x, mask)
    return {
        "policy/approxkl_avg": mean(approx_kl(log_probs, old)),
        "policy/clipfrac_avg": mean(clipped(algo, log_probs, batch)),
        "val/ratio": 1.0 + mean(ratio - 1.0),  # 1 where there is nothing to learn from
        "val/ratio_var": masked_var(ratio, mask),
        "val/ratio_max": jnp.max(jnp.where(mask, ratio, 0.0)),
        "val/ratio_error": jnp.max(jnp.where(mask, jnp.abs(ratio - 1.0), 0.0)),
    }


def clipped(algo: PolicyGradientConfig, log_probs: Array, batch: Experience) -> Array:
    """1 at the tokens [B, T] where the clip acts, else 0; always 0 for surrogates without one."""
    old = batch.rollout.behavior_log_probs
    if algo.surrogate not in CLIPPING:
        return jnp.zeros_like(log_probs)
    if algo.surrogate == "cispo":
        above = probability_ratio(log_probs, old) > 1.0 + clip_range(algo)["clip_high"]
        return above.astype(log_probs.dtype)
    if algo.surrogate == "gspo":
        ratio = sequence_log_ratio(log_probs, old, batch.learnt)
        log_probs, old = jnp.broadcast_to(ratio[:, None], old.shape), jnp.zeros_like(old)
    return clip_fraction(log_probs, old, batch.advantages, **clip_range(algo))
