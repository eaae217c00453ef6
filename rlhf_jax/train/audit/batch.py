"""The frozen rollout of an audit: the same texts with every advantage that a loss may ask for."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp

from rlhf_jax.config import PolicyGradientConfig, RLHFConfig
from rlhf_jax.losses.aggregation import aggregate
from rlhf_jax.models.functional import Model
from rlhf_jax.ops.kl import kl_full
from rlhf_jax.ops.masked import masked_var
from rlhf_jax.rollout.text import Experience
from rlhf_jax.train.audit.arms import ESTIMATORS
from rlhf_jax.train.experience import estimated_kl, make_experience
from rlhf_jax.train.scores import Scored
from rlhf_jax.train.state import TrainState, policy_gradient
from rlhf_jax.types import Array, Params, record

RAW = {"whiten_advantages": "none", "whiten_rewards": "none"}


@record
class AuditBatch:
    """What every arm of an audit shares."""

    experience: Experience  # with the logits of the sampler and of the reference
    advantages: dict[str, Array]  # [B, T] each, by the name in `Arm.advantages`
    kl: dict[str, Array]  # [] each, KL(sampler || reference) by estimator, in the loss's units
    scale: dict[str, Array]  # [] each, what whitening multiplies advantages by with that KL


def freeze(
    model: Model, config: RLHFConfig, state: TrainState, scored: Scored, reference: Params
) -> AuditBatch:
    """Estimates the advantages of the score alone, with each KL in the reward, of each KL alone.

    Args:
      state: the policy that sampled, with its value function and KL coefficient.
      scored: its completions.
    """
    algo, coef = policy_gradient(config), state.extra["kl_coef"]

    def make(**changes: Any) -> Experience:
        changed = dataclasses.replace(algo, whiten_over="batch", **changes)
        changed = dataclasses.replace(config, algo=changed)
        return make_experience(model, changed, state, scored, reference)[0]

    experience = make(surrogate="kl_penalty", kl_placement="loss", kl_estimator="full")
    mask = experience.learnt
    plain = make(kl_placement="none", **RAW).advantages
    advantages = {
        "score": experience.advantages,
        "zero": jnp.zeros_like(plain),
        "later": -coef * later_kl(experience),
    }
    total = lambda x: aggregate(x, mask, mode=algo.aggregation, max_length=mask.shape[1])
    kl, scale = {}, {}
    for estimator in ESTIMATORS:
        settings = {"kl_placement": "reward", "kl_estimator": estimator}
        used, raw = make(**settings).advantages, make(**settings, **RAW).advantages
        scale[estimator] = whitening(used, raw, mask)
        advantages[f"reward {estimator}"] = used
        advantages[f"share {estimator}"] = (raw - plain) * scale[estimator]
        kl[estimator] = total(sampler_kl(algo, estimator, experience))
    return AuditBatch(experience=experience, advantages=advantages, kl=kl, scale=scale)


def both_logits(experience: Experience) -> tuple[Array, Array]:
    """Of the sampler and of the reference."""
    assert experience.behavior_logits is not None and experience.ref_logits is not None
    return experience.behavior_logits, experience.ref_logits


def sampler_kl(algo: PolicyGradientConfig, estimator: str, experience: Experience) -> Array:
    """KL(sampler || reference) per token [B, T], by an estimator."""
    chosen = dataclasses.replace(algo, kl_estimator=estimator)
    log_probs = (experience.rollout.behavior_log_probs, experience.ref_log_probs)
    return estimated_kl(chosen, *log_probs, *both_logits(experience))


def later_kl(experience: Experience) -> Array:
    """Exact KL of the tokens after each token [B, T], in nats."""
    mask = experience.rollout.completion_mask
    kl = jnp.where(mask, kl_full(*both_logits(experience)), 0.0)
    return jnp.cumsum(kl[:, ::-1], axis=1)[:, ::-1] - kl


def whitening(used: Array, raw: Array, mask: Array) -> Array:
    """The factor by which whitening changed the spread of the advantages."""
    return jnp.sqrt(masked_var(used, mask) / jnp.maximum(masked_var(raw, mask), 1e-12))
