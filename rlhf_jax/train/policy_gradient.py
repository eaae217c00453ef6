"""PPO, GRPO, RLOO, REINFORCE and their kin: rollout, scores, advantages, epochs of minibatches.

They differ in the advantage (`train/advantages.py`) and in the loss (`train/policy_loss.py`); the
update is one. It follows Ziegler et al. 2019 (arXiv:1909.08593) and Stiennon et al. 2020
(arXiv:2009.01325), with the objectives of Schulman et al. 2017 (arXiv:1707.06347) and their heirs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from rlhf_jax.config import PolicyGradientConfig, RLHFConfig, merge_dynamic
from rlhf_jax.models.functional import Model
from rlhf_jax.models.value_heads import init_value
from rlhf_jax.ops.kl import kl_full, schulman_controller, ziegler_controller
from rlhf_jax.ops.masked import masked_mean
from rlhf_jax.optim import learning_rate, make_optimizer, with_schedule_of
from rlhf_jax.rollout.text import Experience, completion_outputs
from rlhf_jax.sampling.decode import generate
from rlhf_jax.train.advantages import estimate, moving_mean
from rlhf_jax.train.batches import minibatches, next_prompts
from rlhf_jax.train.experience import make_experience
from rlhf_jax.train.policy_loss import behavior_logits, minibatch_loss
from rlhf_jax.train.scores import drawn, finished, score_texts
from rlhf_jax.train.state import (
    Algorithm,
    Frozen,
    TrainState,
    apply_gradients,
    init_state,
    policy_gradient,
    stream,
    where,
)
from rlhf_jax.types import Array, Key, Metrics, Sequences, SpecialTokens, TextRollout


def steps_per_update(algo: PolicyGradientConfig) -> int:
    """Optimizer steps of one update."""
    return algo.epochs * algo.minibatches


def optimizer(config: RLHFConfig):
    """The optimizer of a whole run."""
    steps = steps_per_update(policy_gradient(config))
    return make_optimizer(config.optim, config.algo.updates * steps, steps)


def init(config: RLHFConfig, frozen: Frozen, key: Key) -> TrainState:
    """A policy that starts at the reference, with the value function it may need."""
    algo, model = policy_gradient(config), config.model
    params = {"policy": frozen.reference}
    if algo.critic:
        params["value"] = init_value(
            stream(key, "value_head"),
            frozen.reference,
            frozen.reward,
            mode=model.value_head,
            init=model.value_init,
            layers=model.value_layers,
        )
    moving = {"kl_coef": algo.kl_coef, "penalty_coef": algo.penalty_coef, "baseline": 0.0}
    extra = {k: jnp.asarray(v, jnp.float32) for k, v in moving.items()}
    return init_state(params, optimizer(config), key, **extra)


def make_policy_gradient(
    model: Model,
    static: RLHFConfig,
    *,
    special: SpecialTokens,
    score: Callable[[Frozen, TextRollout], Array],
    watch: Callable[[TextRollout], Metrics] = lambda rollout: {},
) -> Algorithm:
    """The update of `static`, the part of the config compiled in; `hparams` is the traced part.

    `score` is the reward of each completion [B]; `watch` adds metrics that are not trained on.
    """

    def collect(state: TrainState, prompts: Sequences, hparams: dict) -> TextRollout:
        config = merge_dynamic(static, hparams)
        return sample(model, config, state, prompts, special)

    def learn(
        state: TrainState, rollout: TextRollout, scores: Array, frozen: Frozen, hparams: dict
    ) -> tuple[TrainState, Metrics]:
        config = merge_dynamic(static, hparams)
        algo = policy_gradient(config)
        scored = score_texts(algo, rollout, scores, special)
        experience, metrics = make_experience(model, config, state, scored, frozen.reference)
        after, steps = optimize(model, config, state, experience)
        after = after_update(model, config, after, experience, metrics)
        sampled, raw = drawn(algo, (rollout, scores))
        metrics |= steps | {"objective/scores": jnp.mean(raw)} | watch(sampled)
        metrics["objective/rlhf_reward"] = jnp.mean(raw) + metrics["objective/non_score_reward"]
        ended = finished(sampled, special)
        metrics["val/num_eos_tokens"] = jnp.sum(ended, dtype=jnp.int32)
        metrics["episode"] = after.update * algo.completions
        return after, metrics

    return Algorithm.of(collect, score, learn)


def sample(
    model: Model,
    config: RLHFConfig,
    state: TrainState,
    prompts: Sequences,
    special: SpecialTokens,
) -> TextRollout:
    """Completions of the next prompts, those of one prompt side by side.

    ReMax adds the greedy completions of the same prompts as further rows.
    """
    algo, policy = policy_gradient(config), state.params["policy"]
    count = algo.batch_size * algo.dynamic_sampling // algo.group_size
    asked = next_prompts(state, prompts, count, repeats=algo.group_size)
    key = stream(state.key, "rollout", state.update)
    settings = {"config": config.model, "special": special}
    rollout = generate(model, policy, asked, key, sampling=config.sampling, **settings)
    if algo.advantage != "remax":
        return rollout
    greedily = dataclasses.replace(config.sampling, top_k=1)
    greedy = generate(model, policy, asked, key, sampling=greedily, **settings)
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b]), rollout, greedy)


def optimize(
    model: Model, config: RLHFConfig, state: TrainState, experience: Experience
) -> tuple[TrainState, Metrics]:
    """K epochs over freshly shuffled minibatches; metrics are means over all of them."""
    algo = policy_gradient(config)

    def on_minibatch(carry: tuple[TrainState, Array], batch: Experience):
        batch = estimate(algo, batch) if algo.whiten_over == "minibatch" else batch
        return minibatch_step(model, config, carry, batch)

    def on_epoch(carry: tuple[TrainState, Array], epoch: Array):
        state = carry[0]
        key = stream(state.key, "minibatches", state.update * algo.epochs + epoch)
        return lax.scan(on_minibatch, carry, minibatches(experience, key, algo.minibatches))

    start = (fresh_after_warmup(config, state), jnp.zeros((), bool))
    (state, _), steps = lax.scan(on_epoch, start, jnp.arange(algo.epochs))  # [epochs, minibatches]
    metrics = jax.tree.map(jnp.mean, steps)
    metrics["val/ratio_max"] = jnp.max(steps["val/ratio_max"])
    metrics["val/ratio_first"] = steps["val/ratio"][0, 0]
    metrics["val/ratio_first_error"] = steps["val/ratio_error"][0, 0]
    del metrics["val/ratio_error"]
    each = steps_per_update(algo)
    total = algo.updates * each
    metrics["lr"] = learning_rate(config.optim, state.update * each, total, each)
    return state, metrics


def minibatch_step(
    model: Model, config: RLHFConfig, carry: tuple[TrainState, Array], batch: Experience
) -> tuple[tuple[TrainState, Array], Metrics]:
    """One optimizer step, unless the policy has moved too far; `carry` says whether it has."""
    (state, stopped), algo = carry, policy_gradient(config)
    loss_fn = lambda params: minibatch_loss(model, config, state.extra, params, batch)
    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    warming = state.update < algo.value_warmup
    if algo.value_warmup:
        grads["policy"] = where(
            warming, jax.tree.map(jnp.zeros_like, grads["policy"]), grads["policy"]
        )
    after, norm = apply_gradients(state, grads, loss, optimizer(config))
    metrics |= {"loss/total": loss, "grad_norm": norm}
    if algo.value_warmup:
        policy = where(warming, state.params["policy"], after.params["policy"])
        after = dataclasses.replace(after, params=after.params | {"policy": policy})
    if not may_leave_out(algo):
        return (after, stopped), metrics
    stopped = stopped | too_far(algo.target_kl, metrics["policy/approxkl_avg"], 1.5)
    left_out = stopped | too_far(algo.max_mean_ratio, metrics["val/ratio"], 1.0)
    left_out = left_out | ~jnp.any(batch.learnt)
    metrics["val/left_out"] = left_out.astype(jnp.float32)
    as_before = with_schedule_of(state.opt_state, after.opt_state)
    before = dataclasses.replace(state, opt_state=as_before)
    return (where(left_out, before, after), stopped), metrics


def may_leave_out(algo: PolicyGradientConfig) -> bool:
    """Whether a minibatch may be too far from the sampler, or have nothing to be learnt from."""
    limited = algo.max_mean_ratio is not None or algo.target_kl is not None
    return limited or algo.mask_truncated or algo.dynamic_sampling > 1


def fresh_after_warmup(config: RLHFConfig, state: TrainState) -> TrainState:
    """The state with new moments where the policy begins to learn.

    Adam has counted the steps in which the policy stood still: with its old count the first steps
    would lack their bias correction and be several times too large.
    """
    warmup = policy_gradient(config).value_warmup
    if not warmup:
        return state
    fresh = with_schedule_of(optimizer(config).init(state.params), state.opt_state)
    opt_state = where(state.update == warmup, fresh, state.opt_state)
    return dataclasses.replace(state, opt_state=opt_state)


def too_far(limit: float | None, measured: Array, factor: float) -> Array:
    """Whether a measured number is above a limit, if there is one."""
    return jnp.zeros((), bool) if limit is None else measured > factor * limit


def after_update(
    model: Model,
    config: RLHFConfig,
    state: TrainState,
    experience: Experience,
    metrics: Metrics,
) -> TrainState:
    """Counts the update and moves the coefficients and the baseline that move."""
    algo, extra = policy_gradient(config), dict(state.extra)
    learning = state.update >= algo.value_warmup  # else the policy stands still by design
    if algo.kl_controller == "adaptive":
        kl = metrics["objective/kl" if algo.kl_unit == "sequence" else "objective/kl_token"]
        moved = ziegler_controller(
            extra["kl_coef"],
            kl,
            target=algo.kl_target,
            horizon=algo.kl_horizon,
            num_episodes=algo.batch_size,
        )
        extra["kl_coef"] = jnp.where(learning & jnp.isfinite(moved), moved, extra["kl_coef"])
    if algo.surrogate == "adaptive_kl_penalty":
        moved = moved_kl(model, config, state, experience)
        coefficient = extra["penalty_coef"]
        doubled = schulman_controller(coefficient, moved, target=algo.penalty_target)
        extra["penalty_coef"] = jnp.where(learning, jnp.maximum(doubled, 1e-6), coefficient)
    if algo.advantage == "moving_mean":
        totals = jnp.sum(experience.rewards, axis=1)
        extra["baseline"] = moving_mean(algo, state, jnp.mean(totals))[1]
    return dataclasses.replace(state, update=state.update + 1, extra=extra)


def moved_kl(model: Model, config: RLHFConfig, state: TrainState, experience: Experience) -> Array:
    """KL(behaviour || policy) after the update, nats a token, exact at each position."""
    logits, _ = completion_outputs(model, state.params, experience.rollout, config)
    return masked_mean(kl_full(behavior_logits(experience), logits), experience.learnt)
