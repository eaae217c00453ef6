"""Reward model: a trunk with a scalar head, fitted to preference pairs by Bradley-Terry."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rlhf_jax.config import RewardModelConfig, merge_dynamic
from rlhf_jax.losses.reward_model import bradley_terry_loss, centering_loss, expected_loss
from rlhf_jax.models.functional import Model
from rlhf_jax.models.value_heads import init_head, score_texts
from rlhf_jax.optim import make_optimizer
from rlhf_jax.train.batches import batch_rows, in_batches, num_rows, take
from rlhf_jax.train.state import TrainState, apply_gradients, init_state, stream
from rlhf_jax.types import Array, Key, Metrics, PairBatch, Params, Sequences


def pair_scores(model: Model, params: Params, pairs: PairBatch) -> tuple[Array, Array]:
    """Scores of the chosen and rejected texts, [B] each, in one forward pass."""
    join = lambda a, b: jnp.concatenate([a, b])
    both: Sequences = jax.tree.map(join, pairs.chosen, pairs.rejected)
    chosen, rejected = jnp.split(score_texts(model, params, both.tokens, both.mask), 2)
    return chosen, rejected


def init(trunk: Params, width: int, config: RewardModelConfig, key: Key) -> TrainState:
    """A state that starts from a language model's trunk."""
    params = {
        "trunk": trunk,
        "head": init_head(stream(key, "reward_head"), width, scale=config.head_init),
    }
    return init_state(params, make_optimizer(config.optim, config.steps), key)


def make_train_step(model: Model, static: RewardModelConfig):
    """`(state, pairs, hparams) -> (state, metrics)`; the step picks its own batch of `pairs`."""

    def train_step(
        state: TrainState, pairs: PairBatch, hparams: dict
    ) -> tuple[TrainState, Metrics]:
        config = merge_dynamic(static, hparams)
        tx = make_optimizer(config.optim, config.steps)
        key = stream(state.key, "reward_model")
        rows = batch_rows(key, state.update, size=num_rows(pairs), batch_size=config.batch_size)
        batch = take(pairs, rows)

        def loss_fn(params: Params):
            chosen, rejected = pair_scores(model, params, batch)
            margin = config.margin * batch.margin
            losses = bradley_terry_loss(chosen, rejected, margin=margin)
            if batch.confidence is not None:
                swapped = bradley_terry_loss(rejected, chosen, margin=margin)
                losses = expected_loss(losses, swapped, batch.confidence)
            losses = losses + config.centering_coef * centering_loss(chosen, rejected)
            return jnp.mean(losses), jnp.mean(chosen > rejected, dtype=jnp.float32)

        (loss, accuracy), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
        state, norm = apply_gradients(state, grads, loss, tx)
        state = dataclasses.replace(state, update=state.update + 1)
        return state, {"loss": loss, "accuracy": accuracy, "grad_norm": norm}

    return train_step


def make_evaluate(model: Model, batch_size: int = 256):
    """`(params, pairs) -> share of pairs whose chosen text scores higher`; a tie counts half."""

    def evaluate(params: Params, pairs: PairBatch) -> Array:
        scores = lambda batch: pair_scores(model, params, batch)
        chosen, rejected = jax.lax.map(scores, in_batches(pairs, batch_size))
        real = jnp.arange(chosen.size) < num_rows(pairs)
        wins = jnp.where(chosen > rejected, 1.0, jnp.where(chosen == rejected, 0.5, 0.0))
        return jnp.sum(jnp.where(real, wins.ravel(), 0.0)) / num_rows(pairs)

    return evaluate
