"""Rejection fine-tuning: the likelihood of the best completions of the reference."""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax.config import RLHFConfig, merge_dynamic
from rlhf_jax.models.functional import Model
from rlhf_jax.ops.masked import masked_mean
from rlhf_jax.rollout.text import completion_log_probs
from rlhf_jax.train.batches import batch_rows, num_rows, take
from rlhf_jax.train.one_step import descend
from rlhf_jax.train.state import TrainState, stream
from rlhf_jax.types import Array, Metrics, Params, TextRollout


def make_train_step(model: Model, static: RLHFConfig):
    """`(state, data, hparams) -> (state, metrics)`; the step picks its own batch of `data`.

    `data` is a `TextRollout` of completions to be made likelier, such as those of `best_of_n`.
    """

    def train_step(
        state: TrainState, data: TextRollout, hparams: dict
    ) -> tuple[TrainState, Metrics]:
        config = merge_dynamic(static, hparams)
        key, size = stream(state.key, "rejection"), num_rows(data)
        rows = batch_rows(key, state.update, size=size, batch_size=config.algo.batch_size)
        batch = take(data, rows)
        return descend(config, state, lambda params: batch_loss(model, config, params, batch))

    return train_step


def batch_loss(
    model: Model, config: RLHFConfig, params: Params, batch: TextRollout
) -> tuple[Array, Metrics]:
    """Negative log-likelihood per completion token, in nats, at the sampling temperature."""
    log_probs, _ = completion_log_probs(model, params["policy"], batch, config.sampling)
    loss = -masked_mean(log_probs, batch.completion_mask)
    lengths = jnp.sum(batch.completion_mask, axis=1, dtype=jnp.float32)
    return loss, {"loss": loss, "tokens/completion_length": jnp.mean(lengths)}
