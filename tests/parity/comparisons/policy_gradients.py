"""Ours against TRL's GRPO and RLOO: the policy losses without PPO's clip, and from logits."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from rlhf_jax.losses.policy_gradient import (
    cispo_loss,
    kl_penalty_loss,
    no_clip_loss,
    reinforce_loss,
)
from rlhf_jax.losses.ppo import ppo_clip_loss
from rlhf_jax.ops.distributions import entropy, log_probs_of
from rlhf_jax.ops.kl import kl_k3
from rlhf_jax.ops.masked import masked_mean, masked_sum

from .. import draws
from ..cases import Case
from .clips import clip, clipped_batch, kl_scaled, loss_case, reduced, reference_batch, tokenwise


def cispo_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    """TRL's `epsilon_high` is the cap of the weight itself."""
    return draws.policy_batch(rng, draw) | {"epsilon_high": draws.number(rng, 1.1, 5.0)}


def cispo(log_probs, behavior_log_probs, advantages, mask, epsilon_high):
    spread = tokenwise(advantages, log_probs)
    losses = cispo_loss(log_probs, behavior_log_probs, spread, clip_high=epsilon_high - 1)
    return reduced(losses, mask, "token_mean")


def on_policy_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    batch = draws.policy_batch(rng, draw)
    return {name: x for name, x in batch.items() if name != "behavior_log_probs"}


def reinforce(log_probs, advantages, mask):
    losses = reinforce_loss(log_probs, tokenwise(advantages, log_probs))
    return reduced(losses, mask, "token_mean")


def unclipped(log_probs, behavior_log_probs, advantages, mask):
    losses = no_clip_loss(log_probs, behavior_log_probs, tokenwise(advantages, log_probs))
    return reduced(losses, mask, "sequence_mean")


def penalty_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    batch = reference_batch(rng, draw)
    return {name: x for name, x in batch.items() if not name.startswith("epsilon")}


def penalised(log_probs, behavior_log_probs, advantages, ref_log_probs, mask, beta):
    spread = tokenwise(advantages, log_probs)
    kl = kl_k3(log_probs, ref_log_probs)
    losses = kl_penalty_loss(log_probs, behavior_log_probs, spread, kl, penalty_coef=beta)
    return kl_scaled(reduced(losses, mask, "sequence_mean"), beta)


def logit_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    """A sampler near the policy at a temperature, and an entropy bonus."""
    shape = draws.ROWS, draws.LENGTH
    logits, tokens = draws.logits(rng, draw, *shape), draws.tokens(rng, *shape)
    temperature = draws.number(rng, 0.7, 1.5)
    ours = np.asarray(log_probs_of(jnp.asarray(logits / temperature), jnp.asarray(tokens)))
    return {
        "logits": logits,
        "tokens": tokens,
        "advantages": draws.advantages(rng, draw, (draws.ROWS,)),
        "mask": draws.ragged(rng, draw),
        "behavior_log_probs": draws.near(rng, draw, ours.astype(np.float64)),
        "temperature": temperature,
        "entropy_coef": draws.number(rng, 0.0, 0.1),
    } | draws.clips(rng)


def from_logits(logits, tokens, mask, temperature, entropy_coef, **rest):
    warm = logits / temperature
    loss = reduced(clip(log_probs_of(warm, tokens), **rest), mask, "token_mean")
    bonus = entropy_coef * masked_mean(entropy(warm), mask)
    return {"value": loss["value"] - bonus, "scale": loss["scale"] + bonus}


def near_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    """Short log-probabilities: TRL sums them before it subtracts, and float32 keeps 7 digits."""
    batch = clipped_batch(rng, draw)
    ours = 0.1 * batch["log_probs"]
    return batch | {"log_probs": ours, "behavior_log_probs": draws.near(rng, draw, ours, far=1.0)}


def rloo(log_probs, behavior_log_probs, advantages, mask, epsilon, epsilon_high):
    """One ratio a text: the clip on summed log-probabilities."""
    texts = (masked_sum(x, mask, axis=1) for x in (log_probs, behavior_log_probs))
    bounds = {"clip_low": epsilon, "clip_high": epsilon_high}
    losses = ppo_clip_loss(*texts, advantages, **bounds)
    return {"value": jnp.mean(losses), "scale": jnp.mean(jnp.abs(losses))}


CASES = [
    loss_case("cispo_loss, token_mean", "loss_type=cispo", cispo, cispo_batch, loss_type="cispo"),
    loss_case(
        "reinforce_loss, token_mean",
        "loss_type=cispo, on-policy",
        reinforce,
        on_policy_batch,
        loss_type="cispo",
        epsilon_high=5.0,
    ),
    loss_case(
        "no_clip_loss, sequence_mean",
        "loss_type=grpo, epsilon 1e6",
        unclipped,
        draws.policy_batch,
        loss_type="grpo",
        epsilon=1e6,
    ),
    loss_case(
        "kl_penalty_loss with kl_k3, sequence_mean",
        "loss_type=grpo, epsilon 1e6, beta",
        penalised,
        penalty_batch,
        loss_type="grpo",
        epsilon=1e6,
    ),
    Case(
        ours="ppo_clip_loss - coef entropy of logits / temperature, token_mean",
        peer="trl",
        theirs="GRPOTrainer._compute_loss, loss_type=dapo, temperature, entropy_coef",
        call="grpo_from_logits",
        draw=logit_batch,
        run=from_logits,
        wrt=("logits",),
        options={"loss_type": "dapo"},
        dtypes=("float32",),
    ),
    Case(
        ours="ppo_clip_loss on texts",
        peer="trl",
        theirs="RLOOTrainer._compute_loss",
        call="rloo",
        draw=near_batch,
        run=rloo,
        wrt=("log_probs",),
    ),
]
