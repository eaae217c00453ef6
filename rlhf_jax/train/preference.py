"""Direct preference training on fixed pairs: DPO and its kin, with a reference or without.

No sampling and no reward model: the policy is fitted to the pairs by one of the losses of
`losses/dpo.py` and `losses/preference.py`. What the reference says of them is part of the data, see
`preference_data.make_data`.
"""

from __future__ import annotations

import jax.numpy as jnp

from rlhf_jax.config import PreferenceConfig, RLHFConfig, merge_dynamic, of_kind
from rlhf_jax.models.functional import Model
from rlhf_jax.train.batches import batch_rows, num_rows, take
from rlhf_jax.train.one_step import descend
from rlhf_jax.train.preference_data import (
    REFERENCE_FREE,
    PreferenceData,
    make_reference_log_probs,
)
from rlhf_jax.train.preference_loss import batch_loss
from rlhf_jax.train.state import TrainState, stream
from rlhf_jax.types import Array, Metrics, Params


def make_train_step(model: Model, static: RLHFConfig):
    """`(state, data, hparams) -> (state, metrics)`; the step picks its own batch of `data`.

    The metrics `logps/...` are sums over a completion's tokens; means with `orpo` and `simpo`.
    """

    def train_step(
        state: TrainState, data: PreferenceData, hparams: dict
    ) -> tuple[TrainState, Metrics]:
        config = merge_dynamic(static, hparams)
        algo, key = of_kind(config.algo, PreferenceConfig), stream(state.key, "preference")
        rows = batch_rows(key, state.update, size=num_rows(data), batch_size=algo.batch_size)
        batch = take(data, rows)
        return descend(config, state, lambda params: batch_loss(model, algo, params, batch))

    return train_step


def make_evaluate(model: Model, loss: str, batch_size: int = 64):
    """`(params, data) -> share of pairs whose chosen text earns more`; a tie counts half.

    The reward is the one the policy implies under the loss of that name.
    """
    log_probs = make_reference_log_probs(model, batch_size, mean=loss in REFERENCE_FREE)

    def evaluate(params: Params, data: PreferenceData) -> Array:
        chosen, rejected = log_probs(params["policy"], data.pairs)
        gaps = (chosen - data.ref_chosen) - (rejected - data.ref_rejected)
        return jnp.mean(0.5 * (1.0 + jnp.sign(gaps)))

    return evaluate
