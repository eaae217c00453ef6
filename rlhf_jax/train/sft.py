"""Supervised fine-tuning: next-token cross-entropy on whole texts."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rlhf_jax.config import SFTConfig, merge_dynamic
from rlhf_jax.losses.language_model import cross_entropy
from rlhf_jax.models.functional import Model
from rlhf_jax.optim import make_optimizer
from rlhf_jax.train.batches import batch_rows, in_batches, num_rows, take
from rlhf_jax.train.state import TrainState, apply_gradients, init_state, stream
from rlhf_jax.types import Array, Key, Metrics, Params, Sequences, WeightedMean


def text_loss(model: Model, params: Params, batch: Sequences) -> WeightedMean:
    """Cross-entropy per predicted token, in nats.

    The first token of a text is not predicted, nor is BOS where several texts share a row.
    """
    window = (0, batch.tokens.shape[1] - 1)
    logits = model.apply(params, batch.tokens, batch.mask, window=window).logits
    losses = cross_entropy(logits, batch.tokens[:, 1:])
    said = batch.mask[:, 1:] & batch.mask[:, :-1] & (batch.tokens[:, 1:] != model.bos)
    return WeightedMean.of(losses, said)


def init(model: Model, config: SFTConfig, key: Key) -> TrainState:
    """A state with fresh parameters."""
    tx = make_optimizer(config.optim, config.steps)
    return init_state(model.init(stream(key, "model")), tx, key)


def make_train_step(model: Model, static: SFTConfig):
    """`(state, texts, hparams) -> (state, metrics)`; the step picks its own batch of `texts`."""

    def train_step(
        state: TrainState, texts: Sequences, hparams: dict
    ) -> tuple[TrainState, Metrics]:
        config = merge_dynamic(static, hparams)
        tx = make_optimizer(config.optim, config.steps)
        rows = batch_rows(
            stream(state.key, "sft"),
            state.update,
            size=num_rows(texts),
            batch_size=config.batch_size,
        )
        batch = take(texts, rows)
        loss_fn = lambda params: text_loss(model, params, batch).value()
        loss, grads = jax.value_and_grad(loss_fn)(state.params)
        state, norm = apply_gradients(state, grads, loss, tx)
        state = dataclasses.replace(state, update=state.update + 1)
        return state, {"loss": loss, "grad_norm": norm}

    return train_step


def make_evaluate(model: Model, batch_size: int = 64):
    """`(params, texts) -> held-out cross-entropy per token`, over all rows of `texts`."""

    def evaluate(params: Params, texts: Sequences) -> Array:
        means = jax.lax.map(lambda b: text_loss(model, params, b), in_batches(texts, batch_size))
        return jnp.sum(means.total) / jnp.maximum(jnp.sum(means.weight), 1)

    return evaluate
