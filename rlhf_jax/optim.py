"""Optimizers and schedules as functions of traced hyperparameters.

The transformation is rebuilt inside each compiled step, so its numbers may be traced; its state
has the same layout whatever they are.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rlhf_jax.config import OptimConfig
from rlhf_jax.types import Array


def learning_rate(
    config: OptimConfig, step: Array, total_steps: int, steps_per_update: int = 1
) -> Array:
    """Learning rate at `step` of `total_steps`: linear warm-up, then the schedule's decay.

    With `anneal_per=update` time is counted in updates of `steps_per_update` optimizer steps each,
    within which the rate stands still.

    >>> config = OptimConfig(learning_rate=1.0, schedule="linear")
    >>> float(learning_rate(config, jnp.array(5), 10))
    0.5
    >>> config = OptimConfig(learning_rate=1.0, schedule="linear", anneal_per="update")
    >>> float(learning_rate(config, jnp.array(11), 32, steps_per_update=4))
    0.75
    """
    if config.anneal_per == "update":
        step, total_steps = step // steps_per_update, total_steps // steps_per_update
    warmup = int(config.warmup * total_steps)
    step = jnp.asarray(step, jnp.float32)
    progress = jnp.clip((step - warmup) / max(total_steps - warmup, 1), 0.0, 1.0)
    decay = {
        "constant": jnp.ones_like(progress),
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
    }[config.schedule]
    floor = jnp.where(config.schedule == "constant", 0.0, config.final_scale)
    ramp = jnp.minimum((step + 1.0) / max(warmup, 1), 1.0) if warmup else 1.0
    return config.learning_rate * ramp * (floor + (1.0 - floor) * decay)


def scale_by_tf_adam(
    b1: float | Array = 0.9, b2: float | Array = 0.999, eps: float | Array = 1e-8
) -> optax.GradientTransformation:
    """Adam with epsilon beside the uncorrected root, as TensorFlow has it.

    `sqrt(1 - b2^t) / (1 - b1^t) * m_t / (sqrt(v_t) + eps)`, with the moments
    `m_t = b1 m_{t-1} + (1 - b1) g` and `v_t = b2 v_{t-1} + (1 - b2) g^2`.

    `optax.scale_by_adam` and torch give `m^ / (sqrt(v^) + eps)` with both moments corrected. This
    is the same with `eps / sqrt(1 - b2^t)` for `eps`: 31.6 times more at the first step with
    `b2 = 0.999`, so early steps along small gradients are shorter here.

    Args:
        b1: in [0, 1), of the mean of the gradients.
        b2: in [0, 1), of the mean of their squares.
        eps: > 0, in units of the gradient.

    Returns:
        A transformation whose state is that of `optax.scale_by_adam`.

    Source: "epsilon hat" at the end of section 2 of Kingma and Ba 2015, arXiv:1412.6980.

    >>> tx, params = scale_by_tf_adam(b1=0.0, b2=0.75, eps=0.5), jnp.array(0.0)
    >>> with jax.numpy_dtype_promotion("standard"):
    ...     update, _ = tx.update(jnp.array(1.0), tx.init(params))
    >>> float(update)
    0.5
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        scale = jnp.sqrt(1 - b2**count) / (1 - b1**count)
        steps = jax.tree.map(lambda m, v: scale.astype(m.dtype) * m / (jnp.sqrt(v) + eps), mu, nu)
        return steps, optax.ScaleByAdamState(count=count, mu=mu, nu=nu)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)


ADAM = {"optax": optax.scale_by_adam, "tensorflow": scale_by_tf_adam}


def make_optimizer(
    config: OptimConfig, total_steps: int, steps_per_update: int = 1
) -> optax.GradientTransformation:
    """Global-norm clipping, Adam and decoupled weight decay (Loshchilov and Hutter 2019).

    With a `value_rate_factor` the subtree `value` of the parameters has these to itself: its own
    moments, clipping by its own norm, and so many times the rate.

    Args:
        config: its numbers may be traced; which of them are None may not.
        total_steps: optimizer steps of the whole stage, minibatches included.
        steps_per_update: of these, steps between two changes of the rate with `anneal_per=update`.
    """
    one = one_optimizer(config, total_steps, steps_per_update)
    if config.value_rate_factor is None:
        return one
    factor = config.value_rate_factor
    own = dataclasses.replace(config, learning_rate=factor * config.learning_rate)
    value = one_optimizer(own, total_steps, steps_per_update)
    labels = lambda params: {name: "value" if name == "value" else "rest" for name in params}
    return optax.partition({"value": value, "rest": one}, labels)


def one_optimizer(
    config: OptimConfig, total_steps: int, steps_per_update: int
) -> optax.GradientTransformation:
    """The optimizer of parameters that are clipped together and learn at one rate."""
    bound = config.max_grad_norm
    rate = lambda n: learning_rate(config, jnp.asarray(n), total_steps, steps_per_update)
    return optax.chain(
        optax.identity() if bound is None else optax.clip_by_global_norm(bound),
        ADAM[config.epsilon_style](b1=config.beta1, b2=config.beta2, eps=config.epsilon),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(rate),
    )


def with_schedule_of(state: Any, later: Any) -> Any:
    """An optimizer state with the schedule of a later one.

    Steps that are left out must not hold the schedule back, or it would not end with the run.
    """
    is_schedule = lambda x: isinstance(x, optax.ScaleByScheduleState)
    pick = lambda mine, other: other if is_schedule(mine) else mine
    return jax.tree.map(pick, state, later, is_leaf=is_schedule)
