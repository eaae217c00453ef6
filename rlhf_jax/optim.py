"""Optimizers and schedules as functions of traced hyperparameters.

The transformation is rebuilt inside each compiled step, so its numbers may be traced; its state
has the same layout whatever they are.
"""

from __future__ import annotations

import jax.numpy as jnp
import optax

from rlhf_jax.config import OptimConfig
from rlhf_jax.types import Array


def learning_rate(config: OptimConfig, step: Array, total_steps: int) -> Array:
    """Learning rate at `step` of `total_steps`: linear warm-up, then the schedule's decay.

    >>> config = OptimConfig(learning_rate=1.0, schedule="linear")
    >>> float(learning_rate(config, jnp.array(5), 10))
    0.5
    """
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


def make_optimizer(config: OptimConfig, total_steps: int) -> optax.GradientTransformation:
    """Global-norm clipping, Adam and decoupled weight decay (Loshchilov and Hutter 2019).

    `total_steps` counts optimizer steps, minibatches included.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.max_grad_norm),
        optax.scale_by_adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon),
        optax.add_decayed_weights(config.weight_decay),
        optax.scale_by_learning_rate(lambda n: learning_rate(config, jnp.asarray(n), total_steps)),
    )
