"""PPO for language models: rollout, scores, per-token KL penalty, GAE, epochs of minibatches.

Follows Ziegler et al. 2019 (arXiv:1909.08593) and Stiennon et al. 2020 (arXiv:2009.01325), with
the clipped objective of Schulman et al. 2017 (arXiv:1707.06347, eq. 7).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from rlhf_jax.config import PPOConfig, RLHFConfig, merge_dynamic
from rlhf_jax.losses.ppo import approx_kl, clip_fraction, ppo_clip_loss, value_loss
from rlhf_jax.models.functional import Model
from rlhf_jax.models.value_heads import init_value
from rlhf_jax.ops.distributions import probability_ratio
from rlhf_jax.ops.kl import ziegler_controller
from rlhf_jax.ops.masked import masked_mean, masked_var
from rlhf_jax.ops.shaping import missing_eos_penalty
from rlhf_jax.optim import learning_rate, make_optimizer
from rlhf_jax.rollout.text import Experience, log_probs_and_values
from rlhf_jax.sampling.decode import generate
from rlhf_jax.train.batches import batch_rows, minibatches, num_rows, take
from rlhf_jax.train.experience import make_experience, valued
from rlhf_jax.train.state import TrainState, apply_gradients, init_state, stream
from rlhf_jax.types import (
    Array,
    Key,
    Metrics,
    Params,
    Sequences,
    SpecialTokens,
    TextRollout,
    record,
)


@record
class Frozen:
    """Parameters PPO reads and never changes; one copy serves every run of a sweep."""

    reference: Params  # trunk
    reward: Params  # {"trunk", "head"}


class PPO(NamedTuple):
    """The pieces of an update, all pure. `train_step` is the three others in one program."""

    collect: Callable[..., TextRollout]  # (state, prompts, hparams)
    score: Callable[[Frozen, TextRollout], Array]
    learn: Callable[..., tuple[TrainState, Metrics]]  # (state, rollout, scores, frozen, hparams)
    train_step: Callable[..., tuple[TrainState, Metrics]]  # (state, prompts, frozen, hparams)


def total_steps(algo: PPOConfig) -> int:
    """Optimizer steps of a whole run."""
    return algo.updates * algo.epochs * algo.minibatches


def init(config: RLHFConfig, frozen: Frozen, key: Key) -> TrainState:
    """A policy that starts at the reference, with its value function and KL coefficient."""
    model = config.model
    value = init_value(
        stream(key, "value_head"),
        frozen.reference,
        frozen.reward,
        mode=model.value_head,
        init=model.value_init,
    )
    tx = make_optimizer(config.optim, total_steps(config.algo))
    kl_coef = jnp.asarray(config.algo.kl_coef, jnp.float32)
    return init_state({"policy": frozen.reference, "value": value}, tx, key, kl_coef=kl_coef)


def make_ppo(
    model: Model,
    static: RLHFConfig,
    *,
    special: SpecialTokens,
    score: Callable[[Frozen, TextRollout], Array],
    watch: Callable[[TextRollout], Metrics] = lambda rollout: {},
) -> PPO:
    """PPO on `static`, the part of the config that is compiled in; `hparams` is the traced part.

    `score` is the reward of each completion [B]; `watch` adds metrics that are not trained on.
    """

    def collect(state: TrainState, prompts: Sequences, hparams: dict) -> TextRollout:
        config = merge_dynamic(static, hparams)
        rows = batch_rows(
            stream(state.key, "prompts"),
            state.update,
            size=num_rows(prompts),
            batch_size=config.algo.batch_size,
        )
        return generate(
            model,
            state.params["policy"],
            take(prompts, rows),
            stream(state.key, "rollout", state.update),
            config=config.model,
            sampling=config.sampling,
            special=special,
        )

    def learn(
        state: TrainState, rollout: TextRollout, scores: Array, frozen: Frozen, hparams: dict
    ) -> tuple[TrainState, Metrics]:
        config = merge_dynamic(static, hparams)
        scored = missing_eos_penalty(
            scores,
            rollout.completion_tokens,
            rollout.completion_mask,
            eos_id=special.eos,
            penalty=config.algo.missing_eos_penalty,
        )
        experience, metrics = make_experience(
            model, config, state, rollout, scored, frozen.reference
        )
        state, steps = optimize(model, config, state, experience)
        metrics = {"objective/scores": jnp.mean(scores)} | watch(rollout) | metrics | steps
        metrics["val/num_eos_tokens"] = jnp.sum(
            rollout.completion_tokens == special.eos, dtype=jnp.int32
        )
        state = after_update(config, state, metrics["objective/kl"])
        metrics["episode"] = state.update * config.algo.batch_size
        return state, metrics

    def train_step(
        state: TrainState, prompts: Sequences, frozen: Frozen, hparams: dict
    ) -> tuple[TrainState, Metrics]:
        rollout = collect(state, prompts, hparams)
        return learn(state, rollout, score(frozen, rollout), frozen, hparams)

    return PPO(collect, score, learn, train_step)


def ppo_loss(
    model: Model, config: RLHFConfig, params: Params, batch: Experience
) -> tuple[Array, Metrics]:
    """Policy, value and entropy terms, each a mean over the real tokens of the minibatch."""
    algo, rollout, mask = config.algo, batch.rollout, batch.rollout.completion_mask
    log_probs, values, entropies = log_probs_and_values(
        model, params, rollout, config.sampling.temperature, config.model.value_head
    )
    old = rollout.behavior_log_probs
    clip = {"clip_low": algo.clip_eps, "clip_high": algo.clip_eps}
    mean = lambda x: masked_mean(x, mask)
    log_probs = jnp.where(mask, log_probs, 0.0)
    policy = mean(ppo_clip_loss(log_probs, old, batch.advantages, **clip))
    value_clip = algo.value_clip_eps if algo.clip_value else None
    value_losses = value_loss(values, batch.values, batch.returns, clip=value_clip)
    value = masked_mean(value_losses, valued(algo, mask))
    unclipped = value_loss(values, batch.values, batch.returns)
    spread = mean(entropies)
    loss = policy + algo.vf_coef * value - algo.entropy_coef * spread
    ratio = probability_ratio(log_probs, old)
    metrics = {
        "loss/policy_avg": policy,
        "loss/value_avg": value,
        "policy/entropy_avg": spread,
        "policy/approxkl_avg": mean(approx_kl(log_probs, old)),
        "policy/clipfrac_avg": mean(clip_fraction(log_probs, old, batch.advantages, **clip)),
        "val/ratio": mean(ratio),
        "val/clipfrac_avg": mean((value_losses > unclipped).astype(values.dtype)),
        "val/ratio_var": masked_var(ratio, mask),
        "val/ratio_max": jnp.max(jnp.where(mask, ratio, 0.0)),
        "val/ratio_error": jnp.max(jnp.where(mask, jnp.abs(ratio - 1.0), 0.0)),
    }
    return loss, metrics


def optimize(
    model: Model, config: RLHFConfig, state: TrainState, experience: Experience
) -> tuple[TrainState, Metrics]:
    """K epochs over freshly shuffled minibatches; metrics are means over all of them."""
    algo = config.algo
    tx = make_optimizer(config.optim, total_steps(algo))

    def on_minibatch(state: TrainState, batch: Experience):
        loss_fn = lambda params: ppo_loss(model, config, params, batch)
        (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        state, norm = apply_gradients(state, grads, loss, tx)
        return state, metrics | {"loss/total": loss, "grad_norm": norm}

    def on_epoch(state: TrainState, epoch: Array):
        key = stream(state.key, "minibatches", state.update * algo.epochs + epoch)
        return lax.scan(on_minibatch, state, minibatches(experience, key, algo.minibatches))

    state, steps = lax.scan(on_epoch, state, jnp.arange(algo.epochs))  # each [epochs, minibatches]
    metrics = jax.tree.map(jnp.mean, steps)
    metrics["val/ratio_max"] = jnp.max(steps["val/ratio_max"])
    metrics["val/ratio_first"] = steps["val/ratio"][0, 0]
    metrics["val/ratio_first_error"] = steps["val/ratio_error"][0, 0]
    del metrics["val/ratio_error"]
    done = state.update * (algo.epochs * algo.minibatches)
    metrics["lr"] = learning_rate(config.optim, done, total_steps(algo))
    return state, metrics


def after_update(config: RLHFConfig, state: TrainState, kl: Array) -> TrainState:
    """Counts the update and, if it is adaptive, moves the KL coefficient."""
    algo, kl_coef = config.algo, state.extra["kl_coef"]
    if algo.kl_controller == "adaptive":
        moved = ziegler_controller(
            kl_coef,
            kl,
            target=algo.kl_target,
            horizon=algo.kl_horizon,
            num_episodes=algo.batch_size,
        )
        kl_coef = jnp.where(jnp.isfinite(moved), moved, kl_coef)
    return dataclasses.replace(state, update=state.update + 1, extra={"kl_coef": kl_coef})
