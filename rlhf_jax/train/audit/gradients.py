"""The gradients that different losses take from one frozen rollout, at one and the same policy.

Only the loss differs between two arms: texts, scores, values, policy and KL coefficient are
shared. So a difference between arms is one of the losses, not of the samples.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rlhf_jax.config import RLHFConfig
from rlhf_jax.models.functional import Model
from rlhf_jax.rollout.text import completion_window
from rlhf_jax.train.audit.arms import (
    ESTIMATORS,
    Arm,
    kl_arms,
    kl_terms,
    must_agree,
    own_surrogate,
    surrogate_arms,
)
from rlhf_jax.train.audit.batch import AuditBatch
from rlhf_jax.train.policy_loss import minibatch_loss
from rlhf_jax.train.state import TrainState, policy_gradient
from rlhf_jax.types import Array, Metrics, Params, TextRollout

ROUNDING = 1e-5  # of the longest gradient; one that is shorter has no direction
Arms = tuple[Arm, ...]
Rows = list[dict[str, Any]]
WATCHED = {
    "clip_fraction": "policy/clipfrac_avg",
    "approx_kl": "policy/approxkl_avg",
    "ratio_max": "val/ratio_max",
    "ratio_error": "val/ratio_error",
}


class Outputs(NamedTuple):
    """What a network gave that is not run any more."""

    logits: Array


# A model whose parameters are its logits: the loss as training computes it, without the network.
GIVEN = Model(init=lambda key: {}, apply=lambda logits, *args, **kwargs: Outputs(logits))


def audit(model: Model, config: RLHFConfig, state: TrainState, batch: AuditBatch) -> dict[str, Any]:
    """Compares every arm at the policy of `state`.

    Args:
      config: with an algorithm of the policy-gradient family; its surrogate carries the KL arms.
      state: the policy at which gradients are taken, and the coefficients that move.
      batch: of the policy that sampled, see `freeze`.

    Returns:
      `arms`, a row of numbers each, and `cosines` between all pairs of their gradients; `kl_terms`
      and `kl_cosines`, the same of the KL terms alone. Cosines with a gradient of 0 are None.
    """
    algo = policy_gradient(config)
    everything, alone = (*surrogate_arms(algo), *kl_arms(algo)), tuple(kl_terms(algo))
    arms, between = compared(model, config, state, batch, everything)
    terms, among = compared(model, config, state, batch, alone)
    own, token = own_surrogate(algo), [term["name"] for term in terms].index("loss full")
    for arm, row in zip(arms, between):
        arm["cosine"] = row[[arm["name"] for arm in arms].index(own)]
    for term, row in zip(terms, among):
        term["cosine_token"], term["cosine_text"] = row[token], row[-1]  # the last is TEXT_KL
    for term, estimator in zip(terms, ESTIMATORS):  # in the reward it is that of the sampler
        term |= {"kl": float(batch.kl[estimator]), "whitening": float(batch.scale[estimator])}
    return {"own": own, "arms": arms, "cosines": between, "kl_terms": terms, "kl_cosines": among}


def check_first_step(
    model: Model, config: RLHFConfig, state: TrainState, batch: AuditBatch
) -> dict[str, Any]:
    """At the policy that sampled every ratio is 1 and the surrogates must have one gradient.

    Returns:
      `cosine`, the smallest between two of them; `length`, the largest of their relative
      differences in norm; `ratio_error`, the largest |ratio - 1| of a token. None where the
      gradient is 0.
    """
    arms = tuple(must_agree(surrogate_arms(policy_gradient(config))))
    rows, between = compared(model, config, state, batch, arms)
    found = [x for row in between for x in row if x is not None]
    norms = [row["grad_norm"] for row in rows]
    known = len(found) == len(arms) ** 2
    return {
        "cosine": min(found) if known else None,
        "length": max(norms) / min(norms) - 1.0 if known else None,
        "ratio_error": rows[0]["ratio_error"],
        "arms": [row["name"] for row in rows],
    }


def compared(
    model: Model, config: RLHFConfig, state: TrainState, batch: AuditBatch, arms: Arms
) -> tuple[Rows, list[list[float | None]]]:
    """A row of each arm and the cosines between all pairs, as plain numbers."""
    numbers, gradients = jax.jit(measure, static_argnums=(0, 1, 4))(
        model, config, state, batch, arms
    )
    between = jax.device_get(jax.jit(cosines)(gradients))
    rows: Rows = [{"name": arm.name, "group": arm.group, "note": arm.note} for arm in arms]
    for name, column in jax.device_get(numbers).items():
        for row, value in zip(rows, column):
            row[name] = finite(value)
    for i, row in enumerate(rows):
        if not np.isfinite(between[i, i]):  # its halves are rounding errors
            row["halves"] = None
    return rows, [[finite(x) for x in row] for row in between]


def measure(
    model: Model, config: RLHFConfig, state: TrainState, batch: AuditBatch, arms: Arms
) -> tuple[Metrics, Array]:
    """Numbers of each arm, [arms] each, and the gradients of the policy's parameters [arms, P].

    Each gradient is taken over two halves of the rollout, whose sum it is: the cosine between
    these tells how much of it the samples decide. The network is run once, back once an arm.
    """
    rollout, policy = batch.experience.rollout, state.params["policy"]
    logits, pull = jax.vjp(lambda policy: logits_of(model, policy, rollout), policy)
    given = GIVEN._replace(eos=model.eos)
    losses = [functools.partial(arm_loss, given, config, arm) for arm in arms]
    first = first_half(config, logits.shape[0])

    def one(index: Array) -> tuple[Metrics, Array]:
        numbers, of_logits = lax.switch(index, losses, state.extra, logits, batch)
        parts = jnp.stack([jnp.where(half, of_logits, 0.0) for half in (first, ~first)])
        halves = lax.map(lambda part: flat(pull(part)[0]), parts)  # [2, P]
        whole = jnp.sum(halves, axis=0)
        return numbers | {
            "grad_norm": jnp.linalg.norm(whole),
            "halves": cosines(halves)[0, 1],
        }, whole

    return lax.map(one, jnp.arange(len(arms)))


def arm_loss(
    given: Model,
    config: RLHFConfig,
    arm: Arm,
    extra: dict[str, Array],
    logits: Array,
    batch: AuditBatch,
) -> tuple[Metrics, Array]:
    """What an arm measures, and the gradient of its loss in the logits [B, T, V]."""
    own = dataclasses.replace(config, algo=arm.algo)
    seen = dataclasses.replace(batch.experience, advantages=batch.advantages[arm.advantages])
    f = lambda logits: minibatch_loss(given, own, extra, {"policy": logits}, seen)
    (loss, metrics), gradient = jax.value_and_grad(f, has_aux=True)(logits)
    numbers = {"loss": loss, "kl": metrics.get("loss/kl_avg", jnp.full_like(loss, jnp.nan))}
    return numbers | {name: metrics[metric] for name, metric in WATCHED.items()}, gradient


def logits_of(model: Model, policy: Params, rollout: TextRollout) -> Array:
    """Logits [B, T, V] of the completions' tokens, before the temperature."""
    window = completion_window(rollout)
    return model.apply(policy, rollout.tokens(), rollout.mask(), window=window).logits


def flat(tree: Params) -> Array:
    """All leaves in one vector [P]."""
    return jnp.concatenate([jnp.ravel(x) for x in jax.tree.leaves(tree)])


def first_half(config: RLHFConfig, rows: int) -> Array:
    """bool [rows, 1, 1], the first half of the prompts."""
    size = policy_gradient(config).group_size
    return (jnp.arange(rows) < rows // size // 2 * size)[:, None, None]


def cosines(gradients: Array) -> Array:
    """Cosine of the angle between all pairs of rows: `g_i . g_j / (|g_i| |g_j|)`.

    Args:
      gradients: float [A, P].

    Returns:
      [A, A], symmetric with a diagonal of 1; NaN in the row and column of a gradient that is not
      finite, or shorter than `ROUNDING` of the longest.

    >>> cosines(jnp.array([[3.0, 0.0], [0.0, 1.0], [-2.0, 0.0]])).tolist()
    [[1.0, 0.0, -1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]]
    """
    norms = jnp.linalg.norm(gradients, axis=1)
    longest = jnp.max(jnp.where(jnp.isfinite(norms), norms, 0.0))
    known = jnp.isfinite(norms) & (norms > ROUNDING * longest)
    unit = gradients / jnp.where(known, norms, jnp.nan)[:, None]
    found = jnp.clip(unit @ unit.T, -1.0, 1.0)
    same = jnp.eye(gradients.shape[0], dtype=bool) & known[:, None]
    return jnp.where(same, 1.0, 0.5 * (found + found.T))


def finite(x: Any) -> float | None:
    """A scalar as a plain number; None if it is not finite."""
    return float(x) if np.isfinite(x) else None
