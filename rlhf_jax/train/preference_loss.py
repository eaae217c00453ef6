"""The loss of one batch of preference pairs, by the name it is asked for."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rlhf_jax.config import PreferenceConfig
from rlhf_jax.losses.dpo import dpo_loss, hinge_loss, ipo_loss, robust_dpo_loss
from rlhf_jax.losses.preference import kto_loss, orpo_loss, simpo_loss
from rlhf_jax.losses.reward_model import expected_loss
from rlhf_jax.models.functional import Model
from rlhf_jax.train.preference_data import REFERENCE_FREE, PreferenceData, pair_log_probs
from rlhf_jax.types import Array, Metrics, Params


def batch_loss(
    model: Model, algo: PreferenceConfig, params: Params, batch: PreferenceData
) -> tuple[Array, Metrics]:
    """Mean loss of a batch of pairs; for kto of its texts."""
    free = algo.loss in REFERENCE_FREE
    chosen, rejected = pair_log_probs(model, params["policy"], batch.pairs, mean=free)
    metrics: Metrics = {}
    if algo.loss == "kto":
        metrics["kl"] = mismatched_kl(model, params, batch)
    if free:
        metrics["nll_loss"] = -jnp.mean(chosen)

    def losses_of(first: Array, second: Array, ref_first: Array, ref_second: Array):
        log_probs = (first, second, ref_first, ref_second)
        if algo.loss == "kto":
            return kto_losses(algo, *log_probs, metrics["kl"])
        if free:
            return reference_free_losses(algo, first, second)
        return pair_losses(algo.loss, *log_probs, algo.beta, algo.label_smoothing)

    losses, good, bad = losses_of(chosen, rejected, batch.ref_chosen, batch.ref_rejected)
    if batch.pairs.confidence is not None:
        swapped, _, _ = losses_of(rejected, chosen, batch.ref_rejected, batch.ref_chosen)
        losses = expected_loss(losses, swapped, batch.pairs.confidence)
    loss = jnp.mean(losses)
    return loss, metrics | {"loss": loss} | describe(chosen, rejected, good, bad)


def pair_losses(
    loss: str,
    chosen: Array,
    rejected: Array,
    ref_chosen: Array,
    ref_rejected: Array,
    beta: Array | float,
    label_smoothing: Array | float = 0.0,
) -> tuple[Array, Array, Array]:
    """Losses, chosen and rejected rewards of pairs against a reference."""
    log_probs = (chosen, rejected, ref_chosen, ref_rejected)
    match loss:
        case "ipo":
            return ipo_loss(*log_probs, beta=beta)
        case "hinge":
            return hinge_loss(*log_probs, beta=beta)
        case "robust":
            return robust_dpo_loss(*log_probs, beta=beta, label_smoothing=label_smoothing)
    assert loss == "dpo", loss
    return dpo_loss(*log_probs, beta=beta, label_smoothing=label_smoothing)


def reference_free_losses(
    algo: PreferenceConfig, chosen: Array, rejected: Array
) -> tuple[Array, Array, Array]:
    """Losses, chosen and rejected rewards of pairs from mean log-probs alone."""
    if algo.loss == "simpo":
        smoothing = algo.label_smoothing
        return simpo_loss(
            chosen, rejected, beta=algo.beta, margin=algo.margin, label_smoothing=smoothing
        )
    terms, good, bad = orpo_loss(chosen, rejected, beta=algo.beta)
    return terms - chosen, good, bad


def kto_losses(
    algo: PreferenceConfig,
    chosen: Array,
    rejected: Array,
    ref_chosen: Array,
    ref_rejected: Array,
    kl: Array,
) -> tuple[Array, Array, Array]:
    """Losses of all texts [2B], each judged on its own, and the rewards of either half [B]."""
    join = lambda a, b: jnp.concatenate([a, b])
    losses, rewards = kto_loss(
        join(chosen, rejected),
        join(ref_chosen, ref_rejected),
        jnp.arange(2 * chosen.size) < chosen.size,
        kl,
        beta=algo.beta,
        desirable_weight=algo.desirable_weight,
        undesirable_weight=algo.undesirable_weight,
    )
    good, bad = jnp.split(rewards, 2)
    return losses, good, bad


def mismatched_kl(model: Model, params: Params, batch: PreferenceData) -> Array:
    """How far the policy is from the reference on texts of other prompts, at least 0; a constant.

    The point of reference of KTO (Ethayarajh et al. 2024, arXiv:2402.01306).
    """
    other = batch.mismatched
    assert other is not None, "kto needs mismatched texts: see preference_data.make_data"
    policy = jax.lax.stop_gradient(params["policy"])
    chosen, rejected = pair_log_probs(model, policy, other.pairs)
    ratios = jnp.concatenate([chosen - other.ref_chosen, rejected - other.ref_rejected])
    return jnp.maximum(jnp.mean(ratios), 0.0)


def describe(
    chosen: Array,
    rejected: Array,
    good: Array,
    bad: Array,
    mean: Callable[[Array], Array] = jnp.mean,
) -> Metrics:
    """Log-probs and implied rewards of the two sides of the pairs, under TRL's names.

    Unlike TRL's, the accuracy counts a tie half: before the first step all pairs are ties.
    """
    return {
        "rewards/chosen": mean(good),
        "rewards/rejected": mean(bad),
        "rewards/margins": mean(good - bad),
        "rewards/accuracies": mean(0.5 * (1.0 + jnp.sign(good - bad))),
        "logps/chosen": mean(chosen),
        "logps/rejected": mean(rejected),
    }
