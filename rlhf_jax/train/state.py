"""What training carries from update to update, and the one way it moves."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from rlhf_jax.config import PolicyGradientConfig, RLHFConfig, of_kind
from rlhf_jax.optim import with_schedule_of
from rlhf_jax.types import Array, Key, Metrics, Params, Sequences, TextRollout, record

T = TypeVar("T")


@record
class TrainState:
    """Everything a run needs to go on exactly where it stood."""

    params: Params
    opt_state: Any
    key: Key  # the run's only source of randomness; never split, see `stream`
    update: Array  # [] int32, updates done; also the position in the data
    skipped: Array  # [] int32, optimizer steps dropped because something was not finite
    skipped_in_a_row: Array  # [] int32
    extra: dict[str, Array]  # what one algorithm adds, e.g. the KL coefficient


@record
class Frozen:
    """Parameters that are read and never changed; one copy serves every run of a sweep."""

    reference: Params  # trunk
    reward: Params  # {"trunk", "head"}


class Algorithm(NamedTuple):
    """The pieces of one update, all pure. `train_step` is the three others in one program.

    They are apart because the score may be a plain Python function, called between two programs.
    """

    collect: Callable[..., TextRollout]  # (state, prompts, hparams)
    score: Callable[[Frozen, TextRollout], Array]
    learn: Callable[..., tuple[TrainState, Metrics]]  # (state, rollout, scores, frozen, hparams)
    train_step: Callable[..., tuple[TrainState, Metrics]]  # (state, prompts, frozen, hparams)

    @staticmethod
    def of(
        collect: Callable[..., TextRollout],
        score: Callable[[Frozen, TextRollout], Array],
        learn: Callable[..., tuple[TrainState, Metrics]],
    ) -> Algorithm:
        """Three pieces, and the whole update that follows from them."""

        def train_step(
            state: TrainState, prompts: Sequences, frozen: Frozen, hparams: dict
        ) -> tuple[TrainState, Metrics]:
            rollout = collect(state, prompts, hparams)
            return learn(state, rollout, score(frozen, rollout), frozen, hparams)

        return Algorithm(collect, score, learn, train_step)


def init_state(params: Params, tx: optax.GradientTransformation, key: Key, **extra: Array):
    """A state before the first update."""
    zero = jnp.zeros((), jnp.int32)
    return TrainState(
        params=params,
        opt_state=tx.init(params),
        key=key,
        update=zero,
        skipped=zero,
        skipped_in_a_row=zero,
        extra=extra,
    )


def stream(key: Key, purpose: str, step: Array | int = 0) -> Key:
    """The key of one purpose at one step; any step can be replayed without those before it.

    >>> a, b = stream(jax.random.key(0), "rollout", 3), stream(jax.random.key(0), "rollout", 4)
    >>> bool(jnp.array_equal(jax.random.key_data(a), jax.random.key_data(b)))
    False
    """
    return jax.random.fold_in(jax.random.fold_in(key, zlib.crc32(purpose.encode())), step)


def apply_gradients(
    state: TrainState, grads: Params, loss: Array, tx: optax.GradientTransformation
) -> tuple[TrainState, Array]:
    """One optimizer step, skipped and counted if the loss or a gradient is not finite.

    Returns the new state and the global norm of the gradient before clipping.
    """
    norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    with jax.numpy_dtype_promotion("standard"):  # optax raises floats to integer powers
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    bad = jnp.where(finite, 0, 1).astype(jnp.int32)
    after = dataclasses.replace(
        state,
        params=where(finite, params, state.params),
        opt_state=where(finite, opt_state, with_schedule_of(state.opt_state, opt_state)),
        skipped=state.skipped + bad,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1),
    )
    return after, norm


def where(condition: Array, yes: T, no: T) -> T:
    """One of two equal trees."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def policy_gradient(config: RLHFConfig) -> PolicyGradientConfig:
    """The settings of the algorithm, where they are those of the policy-gradient family."""
    return of_kind(config.algo, PolicyGradientConfig)
