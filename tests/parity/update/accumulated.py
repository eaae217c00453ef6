"""Our update made to accumulate gradients as TRL does: one step an epoch, whatever minibatches."""

from __future__ import annotations

import jax

from rlhf_jax.config import RLHFConfig, merge_dynamic, split_dynamic
from rlhf_jax.rollout.text import Experience
from rlhf_jax.train import policy_gradient
from rlhf_jax.train.batches import take
from rlhf_jax.train.policy_loss import minibatch_loss
from rlhf_jax.train.state import TrainState, apply_gradients
from rlhf_jax.types import Array

from .ours import QUICK, experience, frozen, network, precision, rollout, shifted, start
from .setting import orders
from .weights import Arrays


def one_step(
    config: RLHFConfig, state: TrainState, batch: Experience, parts: list[Array]
) -> TrainState:
    """A step along the mean of the gradients of parts of the batch, each a mean over its tokens."""
    model = network(config)

    def loss(params, part):
        return minibatch_loss(model, config, state.extra, params, take(batch, part))[0]

    def mean_loss(params):
        return sum(loss(params, part) for part in parts) / len(parts)

    value, grads = jax.value_and_grad(mean_loss)(state.params)
    return apply_gradients(state, grads, value, policy_gradient.optimizer(config))[0]


def first_update(answer: Arrays, config: RLHFConfig, dtype: str) -> TrainState:
    """The first update, one step an epoch."""
    rows = orders(config)[0]
    with precision(dtype):
        config = merge_dynamic(config, shifted(split_dynamic(config)[1], dtype))
        state, fixed = start(answer, config), frozen(answer, config)
        _, batch = jax.jit(lambda *x: experience(config, *x))(state, rollout(answer, 0), fixed)
        step = jax.jit(lambda *x: one_step(config, *x), compiler_options=QUICK)
        for order in rows:
            state = step(state, batch, list(order.reshape(config.algo.minibatches, -1)))
        return jax.device_get(state)
