"""From scored completions to what PPO learns from: token rewards, advantages, returns."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from rlhf_jax.config import PPOConfig, RLHFConfig
from rlhf_jax.models.functional import Model
from rlhf_jax.ops.advantages import gae
from rlhf_jax.ops.kl import kl_k1
from rlhf_jax.ops.masked import masked_mean, masked_var, masked_whiten
from rlhf_jax.ops.shaping import completion_discounts, token_rewards
from rlhf_jax.rollout.text import (
    Experience,
    completion_log_probs,
    log_probs_and_values,
    with_log_probs,
)
from rlhf_jax.train.state import TrainState
from rlhf_jax.types import Array, Metrics, Params, TextRollout


def make_experience(
    model: Model,
    config: RLHFConfig,
    state: TrainState,
    rollout: TextRollout,
    scores: Array,
    reference: Params,
) -> tuple[Experience, Metrics]:
    """Adds values, advantages and returns to a scored rollout."""
    algo, mask = config.algo, rollout.completion_mask
    temperature = config.sampling.temperature
    log_probs, values, _ = log_probs_and_values(
        model, state.params, rollout, temperature, config.model.value_head
    )
    if algo.behavior_log_probs == "forward":
        rollout = with_log_probs(rollout, log_probs)
    ref_log_probs, _ = completion_log_probs(model, reference, rollout, temperature)
    kl = jnp.where(mask, kl_k1(rollout.behavior_log_probs, ref_log_probs), 0.0)
    rewards = token_rewards(
        scores, kl, mask, kl_coef=state.extra["kl_coef"], placement=algo.score_placement
    )
    if algo.whiten_rewards:
        rewards = masked_whiten(rewards, valued(algo, mask), shift_mean=False)
    values = jnp.where(valued(algo, mask), values, 0.0)
    advantages = text_gae(algo, rewards, values, mask)
    returns = advantages + values
    if algo.whiten_advantages:
        advantages = masked_whiten(advantages, mask)
    experience = Experience(
        rollout=rollout,
        values=values,
        advantages=advantages,
        returns=returns,
    )
    per_text = lambda x: jnp.mean(jnp.sum(jnp.where(mask, x, 0.0), axis=1))
    non_score = -state.extra["kl_coef"] * per_text(kl)
    error = masked_var(returns - values, mask) / jnp.maximum(masked_var(returns, mask), 1e-8)
    metrics = {
        "objective/kl": per_text(kl),
        "objective/kl_coef": state.extra["kl_coef"],
        "objective/entropy": per_text(-rollout.behavior_log_probs),
        "objective/non_score_reward": non_score,
        "objective/rlhf_reward": jnp.mean(scores) + non_score,
        "tokens/completion_length": jnp.mean(jnp.sum(mask, axis=1, dtype=jnp.float32)),
        "val/explained_variance": 1.0 - error,
        "val/value_mean": masked_mean(values, mask),
    }
    return jax.tree.map(lax.stop_gradient, (experience, metrics))


def valued(algo: PPOConfig, mask: Array) -> Array:
    """Slots [B, T] that have a value: with the score in the last slot it passes through padding."""
    return jnp.ones_like(mask) if algo.score_placement == "last_slot" else mask


def text_gae(algo: PPOConfig, rewards: Array, values: Array, mask: Array) -> Array:
    """Advantages [B, T] of completions that end, or are cut, with nothing after them."""
    discounts = completion_discounts(mask, algo.gamma, placement=algo.score_placement)
    bootstrap = jnp.pad(values, [(0, 0), (0, 1)])  # [B, T + 1]; 0 after the end
    one = lambda r, d, v: gae(r, d, v, gae_lambda=algo.gae_lambda)
    advantages = jax.vmap(one)(rewards, discounts, bootstrap)
    return jnp.where(valued(algo, mask), advantages, 0.0)
