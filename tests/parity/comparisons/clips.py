"""Ours against TRL's GRPO: the clipped surrogate, on tokens and on texts, and its KL term."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np

from rlhf_jax.losses.aggregation import aggregate
from rlhf_jax.losses.policy_gradient import gspo_loss
from rlhf_jax.losses.ppo import clip_fraction, ppo_clip_loss
from rlhf_jax.ops.distributions import probability_ratio
from rlhf_jax.ops.kl import kl_k3
from rlhf_jax.ops.masked import masked_mean

from .. import draws
from ..cases import Case

MAX_LENGTH = 16  # of the config, longer than any completion here

# The aggregation behind TRL's loss types; its KL term and its loss are both per token.
AGGREGATION = {
    "grpo": "sequence_mean",
    "bnpo": "token_mean",
    "dapo": "token_mean",
    "dr_grpo": "constant_length",
    "luspo": "sequence_sum",
}


def tokenwise(advantages, like):
    return jnp.broadcast_to(advantages[:, None], like.shape)


def reduced(losses, mask, mode):
    """The aggregated loss and, as its scale, the same of the terms without their signs."""
    fold = partial(aggregate, mask=mask, mode=mode, max_length=MAX_LENGTH)
    return {"value": fold(losses), "scale": fold(jnp.abs(losses))}


def kl_scaled(loss, beta):
    """TRL's `exp(d) - d - 1` keeps no more digits than its terms have, which are at least 1."""
    return loss | {"scale": loss["scale"] + beta}


def clipped_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    return draws.policy_batch(rng, draw) | draws.clips(rng)


def delta_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    """`delta` above `1 + epsilon_high`, as TRL advises."""
    batch = clipped_batch(rng, draw)
    return batch | {"delta": 1 + batch["epsilon_high"] + draws.number(rng, 0.1, 3.0)}


def reference_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    batch = clipped_batch(rng, draw)
    reference = draws.near(rng, draw, batch["log_probs"], far=1.5)
    return batch | {"ref_log_probs": reference, "beta": draws.number(rng, 0.01, 0.5)}


def clip(log_probs, behavior_log_probs, advantages, epsilon, epsilon_high, delta=None):
    bounds = {"clip_low": epsilon, "clip_high": epsilon_high, "dual_clip": delta}
    return ppo_clip_loss(log_probs, behavior_log_probs, tokenwise(advantages, log_probs), **bounds)


def clipped(loss_type):
    """The clipped surrogate, aggregated as the loss type says."""
    mode = AGGREGATION[loss_type]

    def run(mask, **arrays):
        return reduced(clip(**arrays), mask, mode)

    return run


def with_kl(loss_type, corrected=False):
    mode = AGGREGATION[loss_type]

    def run(log_probs, behavior_log_probs, ref_log_probs, mask, beta, **rest):
        kl = kl_k3(log_probs, ref_log_probs)
        if corrected:
            kl = kl * probability_ratio(log_probs, behavior_log_probs)
        losses = clip(log_probs, behavior_log_probs, **rest) + beta * kl
        return kl_scaled(reduced(losses, mask, mode), beta)

    return run


def gspo(loss_type):
    mode = AGGREGATION[loss_type]

    def run(log_probs, behavior_log_probs, advantages, mask, epsilon, epsilon_high):
        spread = tokenwise(advantages, log_probs)
        bounds = {"clip_low": epsilon, "clip_high": epsilon_high}
        losses = gspo_loss(log_probs, behavior_log_probs, spread, mask, **bounds)
        return reduced(losses, mask, mode)

    return run


def loss_case(name: str, what: str, run, draw, **options) -> Case:
    return Case(
        ours=name,
        peer="trl",
        theirs=f"GRPOTrainer._compute_loss, {what}",
        call="grpo",
        draw=draw,
        run=run,
        wrt=("log_probs",),
        options={"max_completion_length": MAX_LENGTH, **options},
    )


def fraction(mask, advantages, log_probs, behavior_log_probs, epsilon, epsilon_high):
    spread = tokenwise(advantages, log_probs)
    bounds = {"clip_low": epsilon, "clip_high": epsilon_high}
    return masked_mean(clip_fraction(log_probs, behavior_log_probs, spread, **bounds), mask)


TOKEN_LEVEL = [
    loss_case(
        f"ppo_clip_loss, {mode}",
        f"loss_type={kind}",
        clipped(kind),
        clipped_batch,
        loss_type=kind,
    )
    for kind, mode in AGGREGATION.items()
]
TEXT_LEVEL = [
    loss_case(
        f"gspo_loss, {AGGREGATION[kind]}",
        f"loss_type={kind}, importance_sampling_level=sequence",
        gspo(kind),
        clipped_batch,
        loss_type=kind,
        importance_sampling_level="sequence",
    )
    for kind in ("grpo", "luspo", "dapo")
]
KL_TERM = [
    loss_case(
        f"ppo_clip_loss + beta kl_k3, {AGGREGATION[kind]}",
        f"loss_type={kind}, beta",
        with_kl(kind),
        reference_batch,
        loss_type=kind,
    )
    for kind in ("grpo", "dapo")
]
CASES = [
    *TOKEN_LEVEL,
    *TEXT_LEVEL,
    *KL_TERM,
    loss_case(
        "ppo_clip_loss, dual_clip, sequence_mean",
        "loss_type=grpo, delta",
        clipped("grpo"),
        delta_batch,
        loss_type="grpo",
    ),
    loss_case(
        "ppo_clip_loss + beta ratio kl_k3, sequence_mean",
        "loss_type=grpo, beta, use_bias_correction_kl",
        with_kl("grpo", corrected=True),
        reference_batch,
        loss_type="grpo",
        use_bias_correction_kl=True,
    ),
    Case(
        ours="clip_fraction",
        peer="trl",
        theirs="GRPOTrainer._compute_loss, its clip_ratio/region_mean",
        call="grpo_clip_ratio",
        draw=clipped_batch,
        run=fraction,
        options={"loss_type": "dapo"},
        dtypes=("float32",),
    ),
]
