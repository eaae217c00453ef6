"""What the methods share that fit a policy without a value function, one step an update."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax

from rlhf_jax.config import RLHFConfig
from rlhf_jax.optim import learning_rate, make_optimizer
from rlhf_jax.train.state import Frozen, TrainState, apply_gradients, init_state
from rlhf_jax.types import Array, Key, Metrics, Params


def init(config: RLHFConfig, frozen: Frozen, key: Key) -> TrainState:
    """A policy that starts at the reference; the parameters of a policy gradient without critic."""
    tx = make_optimizer(config.optim, config.algo.updates)
    return init_state({"policy": frozen.reference}, tx, key)


def descend(
    config: RLHFConfig, state: TrainState, loss_fn: Callable[[Params], tuple[Array, Metrics]]
) -> tuple[TrainState, Metrics]:
    """One optimizer step on `loss_fn(params)`, and its metrics with the gradient's norm."""
    (loss, metrics), grads = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    after, norm = apply_gradients(
        state, grads, loss, make_optimizer(config.optim, config.algo.updates)
    )
    rate = learning_rate(config.optim, state.update, config.algo.updates)
    after = dataclasses.replace(after, update=state.update + 1)
    return after, metrics | {"grad_norm": norm, "lr": rate}
