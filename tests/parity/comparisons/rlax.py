"""Ours against rlax: advantages, value targets, and losses over one stream."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.losses.aggregation import aggregate
from rlhf_jax.losses.policy_gradient import no_clip_loss, reinforce_loss
from rlhf_jax.losses.ppo import ppo_clip_loss, value_loss
from rlhf_jax.ops.advantages import gae
from rlhf_jax.ops.distributions import entropy, log_probs_of
from rlhf_jax.ops.kl import kl_full
from rlhf_jax.ops.shaping import completion_discounts

from .. import draws
from ..cases import Case

RlaxCase = partial(Case, peer="rlax")


def streams(rng: np.random.Generator, draw: int) -> draws.Arrays:
    """Rewards, values and discounts of texts of unequal length; some episodes go on at the end."""
    gamma = np.array(1.0 if draw == draws.FULL else rng.uniform(0.5, 1.0))
    mask = draws.ragged(rng, draw)
    goes_on = mask[:, -1:] & (rng.random((draws.ROWS, 1)) < 0.5)
    last = np.arange(draws.LENGTH) == draws.LENGTH - 1
    discounts = np.asarray(completion_discounts(jnp.asarray(mask), 1.0), np.float64)
    return {
        "rewards": rng.normal(size=mask.shape),
        "discounts": gamma * np.where(goes_on & last, 1.0, discounts),
        "values": rng.normal(size=(draws.ROWS, draws.LENGTH + 1)),
        "gae_lambda": np.array({0: 1.0, 1: 0.0}.get(draw, rng.random())),
    }


def advantages(rewards, discounts, values, gae_lambda):
    row = lambda r, d, v: gae(r, d, v, gae_lambda=gae_lambda)
    return jax.vmap(row)(rewards, discounts, values)


def returns(rewards, discounts, values, gae_lambda):
    return advantages(rewards, discounts, values, gae_lambda) + values[:, :-1]


def slot_mean(losses, mask):
    """rlax divides by all slots."""
    fold = partial(aggregate, mask=mask, mode="constant_length", max_length=mask.shape[1])
    return {"value": fold(losses), "scale": fold(jnp.abs(losses))}


def token_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    """A policy batch with an advantage per token and a symmetric clip."""
    batch = draws.policy_batch(rng, draw)
    batch["advantages"] = draws.advantages(rng, draw, batch["mask"].shape)
    return batch | {"epsilon": draws.number(rng, 0.05, 0.4)}


def clipped(log_probs, behavior_log_probs, advantages, mask, epsilon):
    clip = {"clip_low": epsilon, "clip_high": epsilon}
    losses = ppo_clip_loss(log_probs, behavior_log_probs, advantages, **clip)
    return slot_mean(losses, mask)


def unclipped_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    return token_batch(rng, draw) | {"epsilon": np.array(1e6)}


def unclipped(log_probs, behavior_log_probs, advantages, mask, epsilon):
    losses = no_clip_loss(log_probs, behavior_log_probs, advantages)
    return slot_mean(losses, mask)


def logit_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    logits = draws.logits(rng, draw, draws.ROWS, draws.LENGTH)
    return {"logits": logits, "tokens": draws.tokens(rng, draws.ROWS, draws.LENGTH)}


def weighted_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    mask = draws.ragged(rng, draw)
    advantages = draws.advantages(rng, draw, mask.shape)
    return logit_batch(rng, draw) | {"advantages": advantages, "mask": mask}


def reinforce(logits, tokens, advantages, mask):
    losses = reinforce_loss(log_probs_of(logits, tokens), advantages)
    return slot_mean(losses, mask)


def two_policies(rng: np.random.Generator, draw: int) -> draws.Arrays:
    logits = draws.logits(rng, draw, draws.ROWS, draws.LENGTH)
    return {"logits": logits, "ref_logits": draws.near(rng, draw, logits)}


def value_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    shape = draws.ROWS, draws.LENGTH
    return {"values": 3 * rng.normal(size=shape), "returns": rng.normal(size=shape)}


def huber_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    return value_batch(rng, draw) | {"delta": draws.number(rng, 0.1, 3.0)}


CASES = [
    RlaxCase(
        ours="gae",
        theirs="truncated_generalized_advantage_estimation",
        call="gae",
        draw=streams,
        run=advantages,
        wrt=("rewards", "values"),
    ),
    RlaxCase(
        ours="gae + values",
        theirs="lambda_returns",
        call="lambda_returns",
        draw=streams,
        run=returns,
        wrt=("rewards", "values"),
    ),
    RlaxCase(
        ours="gae + values",
        theirs="vtrace targets, ratios of 1",
        call="vtrace_targets",
        draw=streams,
        run=returns,
        wrt=("rewards", "values"),
    ),
    RlaxCase(
        ours="ppo_clip_loss, constant_length",
        theirs="clipped_surrogate_pg_loss",
        call="clipped_surrogate",
        draw=token_batch,
        run=clipped,
        wrt=("log_probs",),
    ),
    RlaxCase(
        ours="no_clip_loss, constant_length",
        theirs="clipped_surrogate_pg_loss, epsilon 1e6",
        call="clipped_surrogate",
        draw=unclipped_batch,
        run=unclipped,
        wrt=("log_probs",),
    ),
    RlaxCase(
        ours="reinforce_loss of log_probs_of, constant_length",
        theirs="policy_gradient_loss",
        call="policy_gradient",
        draw=weighted_batch,
        run=reinforce,
        wrt=("logits",),
    ),
    RlaxCase(
        ours="log_probs_of",
        theirs="softmax().logprob",
        call="log_prob",
        draw=logit_batch,
        run=log_probs_of,
        wrt=("logits",),
    ),
    RlaxCase(
        ours="entropy",
        theirs="softmax().entropy",
        call="entropy",
        draw=lambda rng, draw: {"logits": draws.logits(rng, draw, draws.ROWS, draws.LENGTH)},
        run=entropy,
        wrt=("logits",),
        terms=1.0,
    ),
    RlaxCase(
        ours="kl_full",
        theirs="softmax().kl",
        call="kl",
        draw=two_policies,
        run=kl_full,
        wrt=("logits",),
        terms=1.0,
    ),
    RlaxCase(
        ours="value_loss",
        theirs="l2_loss",
        call="l2_loss",
        draw=value_batch,
        run=lambda values, returns: value_loss(values, values, returns),
        wrt=("values",),
    ),
    RlaxCase(
        ours="value_loss, huber_delta",
        theirs="huber_loss",
        call="huber_loss",
        draw=huber_batch,
        run=lambda values, returns, delta: value_loss(values, values, returns, huber_delta=delta),
        wrt=("values",),
    ),
]
