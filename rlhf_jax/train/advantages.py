"""The advantage estimators of text, and the whitening around them."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rlhf_jax.config import PolicyGradientConfig
from rlhf_jax.config.algo import PER_TOKEN
from rlhf_jax.ops.advantages import (
    best_of_group,
    dr_grpo_advantages,
    gae,
    grpo_advantages,
    rloo_advantages,
)
from rlhf_jax.ops.masked import masked_center, masked_scale, masked_whiten
from rlhf_jax.ops.shaping import completion_discounts, valued_slots
from rlhf_jax.rollout.text import Experience
from rlhf_jax.train.scores import Scored
from rlhf_jax.train.state import TrainState
from rlhf_jax.types import Array


def ddof(algo: PolicyGradientConfig) -> int:
    """Degrees of freedom a variance gives up."""
    return 1 if algo.whiten_variance == "unbiased" else 0


def sequence_advantages(
    algo: PolicyGradientConfig, totals: Array, scored: Scored, state: TrainState
) -> Array:
    """One advantage a completion [B], of the rewards summed over it; 0 where tokens have theirs."""
    groups = totals.reshape(-1, algo.group_size)  # [prompts, G]
    match algo.advantage:
        case "grpo":
            epsilon = algo.group_std_epsilon
            return grpo_advantages(groups, ddof=ddof(algo), epsilon=epsilon).reshape(-1)
        case "dr_grpo":
            return dr_grpo_advantages(groups).reshape(-1)
        case "rloo":
            return rloo_advantages(groups).reshape(-1)
        case "best_of_group":
            return best_of_group(groups).reshape(-1)
        case "batch_mean":
            return totals - jnp.mean(totals)
        case "moving_mean":
            return totals - moving_mean(algo, state, jnp.mean(totals))[0]
        case "remax":
            return totals - scored.greedy
        case "no_baseline":
            return totals
    return jnp.zeros_like(totals)


def moving_mean(algo: PolicyGradientConfig, state: TrainState, mean: Array) -> tuple[Array, Array]:
    """The baseline of this update, from those before it, and that of the next.

    The first update has nothing before it and takes its own mean.
    """
    stored = state.extra["baseline"]
    baseline = jnp.where(state.update == 0, mean, stored)
    moved = algo.baseline_decay * baseline + (1.0 - algo.baseline_decay) * mean
    return baseline, jnp.where(jnp.isfinite(moved), moved, stored)


def estimate(algo: PolicyGradientConfig, experience: Experience) -> Experience:
    """Whitens the rewards, estimates advantages and returns from them, whitens the advantages."""
    mask = experience.rollout.completion_mask
    advantages, returns = experience.advantages, experience.returns
    if algo.advantage in PER_TOKEN:
        slots = valued_slots(mask, algo.score_placement)
        rewards = whiten(experience.rewards, slots, algo.whiten_rewards, ddof(algo))
        advantages = text_gae(algo, rewards, experience.values, mask)
        returns = advantages + experience.values
    advantages = whiten(advantages, experience.learnt, algo.whiten_advantages, ddof(algo))
    return dataclasses.replace(experience, advantages=advantages, returns=returns)


def whiten(x: Array, mask: Array, how: str, ddof: int) -> Array:
    """One of the ways in which codes normalise rewards and advantages over a batch."""
    match how:
        case "standardize":
            return masked_whiten(x, mask, ddof=ddof)
        case "keep_mean":
            return masked_whiten(x, mask, shift_mean=False, ddof=ddof)
        case "scale":
            return masked_scale(x, mask, ddof=ddof)
        case "center":
            return masked_center(x, mask)
    return x


def text_gae(algo: PolicyGradientConfig, rewards: Array, values: Array, mask: Array) -> Array:
    """Advantages [B, T] of completions that end, or are cut, with nothing after them.

    With values of 0 and lambda 1 they are the discounted returns (REINFORCE++).
    """
    discounts = completion_discounts(mask, algo.gamma, placement=algo.score_placement)
    bootstrap = jnp.pad(values, [(0, 0), (0, 1)])  # [B, T + 1]; 0 after the end
    gae_lambda = algo.gae_lambda if algo.advantage == "gae" else 1.0
    one = lambda r, d, v: gae(r, d, v, gae_lambda=gae_lambda)
    advantages = jax.vmap(one)(rewards, discounts, bootstrap)
    return jnp.where(valued_slots(mask, algo.score_placement), advantages, 0.0)
