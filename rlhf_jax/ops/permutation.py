"""A random order of many rows, asked for a few of them: no sort of all the others."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from rlhf_jax.types import Array, Key

ROUNDS = 10  # fewer leave a bias that can be seen in orders of about ten rows


def permuted(key: Key, positions: Array, size: int) -> Array:
    """Where a random permutation of `range(size)` sends `positions`.

    A Feistel network over pairs (l, r) of numbers below `ceil(sqrt(size))`, each round
    `(l, r) -> (r, l + hash(r))`, applied again to what falls outside `range(size)` (Black and
    Rogaway 2002, "Ciphers with arbitrary finite domains"). One row of a million costs what one of
    ten does.

    Args:
        key: one permutation for each.
        positions: any shape, integers in [0, size).
        size: at least 1.

    Returns:
        int32 of the shape of `positions`: different numbers for different positions.

    >>> order = permuted(jax.random.key(0), jnp.arange(5), 5)
    >>> sorted(order.tolist())
    [0, 1, 2, 3, 4]
    """
    side = jnp.uint32(math.isqrt(size - 1) + 1)
    salts = jax.random.bits(key, (ROUNDS,), jnp.uint32)

    def network(x: Array) -> Array:
        left, right = x // side, x % side
        for salt in salts:
            left, right = right, (left + mixed(right ^ salt) % side) % side
        return left * side + right

    outside = lambda x: x >= jnp.uint32(size)
    walk = lambda x: jnp.where(outside(x), network(x), x)
    start = network(positions.astype(jnp.uint32))
    return lax.while_loop(lambda x: jnp.any(outside(x)), walk, start).astype(jnp.int32)


def mixed(x: Array) -> Array:
    """A number in which every bit depends on every bit of a uint32."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)
