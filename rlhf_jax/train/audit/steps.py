"""The frozen rollout, and the first optimizer steps that are taken on it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from rlhf_jax.config import RLHFConfig
from rlhf_jax.models.functional import Model
from rlhf_jax.rollout.text import Experience
from rlhf_jax.train import policy_gradient as family
from rlhf_jax.train.advantages import estimate
from rlhf_jax.train.batches import minibatches
from rlhf_jax.train.scores import Scored, score_texts
from rlhf_jax.train.scoring import make_score
from rlhf_jax.train.stages import Pipeline
from rlhf_jax.train.state import Frozen, TrainState, policy_gradient, stream

TIMES = 4


def audited(config: RLHFConfig, batch_size: int | None) -> RLHFConfig:
    """The settings with `batch_size` completions, in minibatches as large as they were.

    None is `TIMES` as many as the algorithm has: there is one rollout, and it should say something.
    The learning rate stands still, as that of a finished run may have come down to 0.

    >>> found = audited(RLHFConfig(), 128)
    >>> found.algo.batch_size, found.algo.minibatches  # 64 and 4 before
    (128, 8)
    """
    algo = policy_gradient(config)
    each = algo.batch_size // algo.minibatches
    size = TIMES * algo.batch_size if batch_size is None else batch_size
    algo = dataclasses.replace(algo, batch_size=size, minibatches=size // each)
    optim = dataclasses.replace(config.optim, schedule="constant", warmup=0.0)
    return dataclasses.replace(config, algo=algo, optim=optim)


def roll_out(pipeline: Pipeline, config: RLHFConfig, frozen: Frozen, state: TrainState) -> Scored:
    """The completions the next update would learn from, scored."""
    model, special = pipeline.model, pipeline.task.codec.special
    prompts = jax.device_put(pipeline.task.train_prompts)
    sample = jax.jit(family.sample, static_argnums=(0, 1, 4))
    rollout = sample(model, config, state, prompts, special)
    if pipeline.score_host is not None:
        scores = jnp.asarray(pipeline.score_host(rollout))
    else:
        score = make_score(config.task.reward, model, pipeline.task.in_graph, special)
        scores = jax.jit(score)(frozen, rollout)
    return score_texts(policy_gradient(config), rollout, scores, special)


def take_steps(
    model: Model, config: RLHFConfig, state: TrainState, experience: Experience, count: int
) -> TrainState:
    """The first `count` optimizer steps of the update, as `policy_gradient.optimize` takes them."""
    algo, carry = policy_gradient(config), (state, jnp.zeros((), bool))

    @jax.jit
    def step(carry: tuple[TrainState, Any], batch: Experience):
        batch = estimate(algo, batch) if algo.whiten_over == "minibatch" else batch
        return family.minibatch_step(model, config, carry, batch)[0]

    for epoch in range(-(-count // algo.minibatches)):
        key = stream(state.key, "minibatches", state.update * algo.epochs + epoch)
        shuffled = minibatches(experience, key, algo.minibatches)
        for place in range(min(algo.minibatches, count - epoch * algo.minibatches)):
            carry = step(carry, jax.tree.map(lambda x: x[place], shuffled))  # noqa: B023
    return carry[0]
