"""What nearly every function here asks of its arrays."""

from __future__ import annotations

import chex

from rlhf_jax.types import Array


def assert_floats_alike(*arrays: Array) -> None:
    """Floats of one shape; nothing is broadcast silently.

    Raises:
        AssertionError: shapes differ, or an array is not float.

    >>> import jax.numpy as jnp
    >>> assert_floats_alike(jnp.zeros(3), jnp.ones(3))
    """
    chex.assert_type(list(arrays), float)
    chex.assert_equal_shape(list(arrays))
