"""From scored completions to what the policy learns from: token rewards, advantages, returns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from rlhf_jax.config import PolicyGradientConfig, RLHFConfig
from rlhf_jax.models.functional import Model
from rlhf_jax.ops.distributions import log_probs_of
from rlhf_jax.ops.kl import kl_full, kl_k1, kl_k2, kl_k3
from rlhf_jax.ops.masked import masked_mean, masked_sum, masked_var
from rlhf_jax.ops.shaping import token_rewards, valued_slots
from rlhf_jax.rollout.text import Experience, completion_outputs, with_log_probs
from rlhf_jax.train.advantages import estimate, sequence_advantages
from rlhf_jax.train.scores import Scored
from rlhf_jax.train.state import TrainState, policy_gradient
from rlhf_jax.types import Array, Metrics, Params, TextRollout


def make_experience(
    model: Model, config: RLHFConfig, state: TrainState, scored: Scored, reference: Params
) -> tuple[Experience, Metrics]:
    """Adds rewards, values, advantages and returns to a scored rollout."""
    algo, rollout, mask = policy_gradient(config), scored.rollout, scored.rollout.completion_mask
    logits, values = completion_outputs(model, state.params, rollout, config)
    ref_logits, _ = completion_outputs(model, {"policy": reference}, rollout, config)
    tokens = rollout.completion_tokens
    if algo.behavior_log_probs == "forward":
        rollout = with_log_probs(rollout, log_probs_of(logits, tokens))
    ref_log_probs = jnp.where(mask, log_probs_of(ref_logits, tokens), 0.0)
    old = rollout.behavior_log_probs
    kl = jnp.where(mask, estimated_kl(algo, old, ref_log_probs, logits, ref_logits), 0.0)
    rewards = token_rewards(
        scored.scores,
        kl,
        mask,
        kl_coef=state.extra["kl_coef"] if algo.kl_placement == "reward" else 0.0,
        placement=algo.score_placement,
    )
    advantages = sequence_advantages(algo, jnp.sum(rewards, axis=1), scored, state)
    raw = Experience(
        rollout=rollout,
        learnt=mask & scored.learnt[:, None],
        rewards=rewards,
        values=jnp.where(valued_slots(mask, algo.score_placement), values, 0.0),
        advantages=jnp.broadcast_to(advantages[:, None], mask.shape),
        returns=jnp.zeros_like(rewards),
        ref_log_probs=ref_log_probs,
        behavior_logits=logits if needs_behavior_logits(algo) else None,
        ref_logits=ref_logits if needs_ref_logits(algo) else None,
    )
    estimated = estimate(algo, raw)
    metrics = describe(algo, state, estimated, kl)
    experience = estimated if algo.whiten_over == "batch" else raw
    return jax.tree.map(lax.stop_gradient, (experience, metrics))


def needs_behavior_logits(algo: PolicyGradientConfig) -> bool:
    """Whether the loss compares whole distributions with the sampler's."""
    return algo.surrogate in ("kl_penalty", "adaptive_kl_penalty")


def needs_ref_logits(algo: PolicyGradientConfig) -> bool:
    """Whether the loss compares whole distributions with the reference's."""
    return algo.kl_placement == "loss" and algo.kl_estimator == "full"


def estimated_kl(
    algo: PolicyGradientConfig,
    log_probs: Array,
    ref_log_probs: Array,
    logits: Array,
    ref_logits: Array | None,
) -> Array:
    """KL(policy || reference) per token by the estimator asked for, [B, T]."""
    match algo.kl_estimator:
        case "k1":
            return kl_k1(log_probs, ref_log_probs)
        case "k2":
            return kl_k2(log_probs, ref_log_probs)
        case "k3":
            return kl_k3(log_probs, ref_log_probs)
    assert ref_logits is not None
    return kl_full(logits, ref_logits)


def describe(
    algo: PolicyGradientConfig,
    state: TrainState,
    experience: Experience,
    kl: Array,
) -> Metrics:
    """What is logged of a rollout and of what it is worth; `kl` is that of the estimator."""
    mask, coefficient = experience.rollout.completion_mask, state.extra["kl_coef"]
    price = 0.0 if algo.kl_placement == "none" else coefficient
    metrics = describe_texts(experience.rollout, experience.ref_log_probs)
    metrics |= {
        "objective/kl_coef": coefficient,
        "objective/non_score_reward": -price * per_text(kl, mask),
    }
    if algo.critic:
        values, returns = experience.values, experience.returns
        error = masked_var(returns - values, mask) / jnp.maximum(masked_var(returns, mask), 1e-8)
        metrics["val/explained_variance"] = 1.0 - error
        metrics["val/value_mean"] = masked_mean(values, mask)
    return metrics


def describe_texts(rollout: TextRollout, ref_log_probs: Array) -> Metrics:
    """How far sampled texts are from the reference, their entropy and length."""
    mask, log_probs = rollout.completion_mask, rollout.behavior_log_probs
    k1 = kl_k1(log_probs, ref_log_probs)
    return {
        "objective/kl": per_text(k1, mask),
        "objective/kl_token": masked_mean(k1, mask),
        "objective/entropy": per_text(-log_probs, mask),
        "tokens/completion_length": per_text(jnp.ones_like(k1), mask),
    }


def per_text(x: Array, mask: Array) -> Array:
    """Sum over tokens, mean over the texts that have any."""
    texts = jnp.sum(jnp.any(mask, axis=1), dtype=x.dtype)
    return masked_sum(x, mask) / jnp.maximum(texts, 1.0)
