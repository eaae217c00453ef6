"""Key-value cache for decoding: an explicit argument and return value, never hidden state."""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from rlhf_jax.types import Array, record


@record
class KVCache:
    """Keys and values of the tokens seen so far, one pair a layer.

    Slots are filled left to right for all rows at once; `mask` marks those that hold real tokens
    (left padding occupies slots that stay masked).
    """

    keys: tuple[Array, ...]  # each [B, K, S, H]
    values: tuple[Array, ...]  # each [B, K, S, H]
    mask: Array  # [B, S] bool
    length: Array  # [] int32, slots filled


def init_cache(batch: int, slots: int, *, layers: int, kv_heads: int, head_dim: int) -> KVCache:
    """An empty cache of `slots` positions."""
    zeros = jnp.zeros((batch, kv_heads, slots, head_dim), jnp.float32)
    return KVCache(
        keys=(zeros,) * layers,
        values=(zeros,) * layers,
        mask=jnp.zeros((batch, slots), bool),
        length=jnp.zeros((), jnp.int32),
    )


def write(buffer: Array, new: Array, at: Array, axis: int) -> Array:
    """Writes `new` into the slots of `buffer` along `axis`, from slot `at` on."""
    return lax.dynamic_update_slice_in_dim(buffer, new.astype(buffer.dtype), at, axis)
