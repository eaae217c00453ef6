"""Which rows come next: epochs without repetition, addressed by step, so any can be replayed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from rlhf_jax.ops.permutation import permuted
from rlhf_jax.train.state import TrainState, stream
from rlhf_jax.types import Array, Key, Sequences

Tree = TypeVar("Tree")


def take(tree: Tree, rows: Array) -> Tree:
    """Rows of every array of a tree."""
    return jax.tree.map(lambda x: x[rows], tree)


def num_rows(tree: object) -> int:
    """Length of the first axis of a tree's arrays."""
    return jax.tree.leaves(tree)[0].shape[0]


def repeat_rows(tree: Tree, times: int) -> Tree:
    """Each row `times` times, one after the other: [N, ...] to [N * times, ...]."""
    return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), tree)


def batch_rows(key: Key, step: Array, *, size: int, batch_size: int) -> Array:
    """Row numbers [batch_size] of batch `step`; each epoch is a fresh permutation of `size` rows.

    Rows left over at the end of an epoch (`size` modulo `batch_size`) are skipped; which ones
    differs from epoch to epoch. With fewer rows than a batch needs, rows are drawn with
    replacement.

    >>> rows = [batch_rows(jax.random.key(0), jnp.array(i), size=4, batch_size=2) for i in (0, 1)]
    >>> sorted(jnp.concatenate(rows).tolist())
    [0, 1, 2, 3]
    """
    if size < batch_size:
        return jax.random.randint(stream(key, "rows", step), (batch_size,), 0, size)
    batches = size // batch_size
    positions = (step % batches) * batch_size + jnp.arange(batch_size, dtype=jnp.int32)
    return permuted(stream(key, "rows", step // batches), positions, size)


def next_prompts(state: TrainState, prompts: Sequences, count: int, *, repeats: int) -> Sequences:
    """The `count` prompts of this update, each `repeats` times."""
    key = stream(state.key, "prompts")
    rows = batch_rows(key, state.update, size=num_rows(prompts), batch_size=count)
    return repeat_rows(take(prompts, rows), repeats)


def minibatches(
    tree: Tree, key: Key, count: int, order: Callable[[Key, int], Array] = jax.random.permutation
) -> Tree:
    """Shuffles the rows of a tree and splits them: [B, ...] to [count, B / count, ...].

    `order` draws the order of so many rows.
    """
    size = num_rows(tree)
    return take(tree, order(key, size).reshape(count, size // count))


def in_batches(tree: Tree, batch_size: int) -> Tree:
    """[N, ...] to [ceil(N / batch_size), batch_size, ...]; the rest is masked-out padding.

    Padding rows are all-zero, so boolean masks exclude them.
    """
    size = num_rows(tree)
    missing = -size % min(batch_size, size)
    width = min(batch_size, size)

    def split(x: Array) -> Array:
        padded = jnp.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1))
        return padded.reshape(-1, width, *x.shape[1:])

    return jax.tree.map(split, tree)
