"""Strict settings for every test: no silent dtype or rank promotion."""

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def float64():
    """Runs one test in 64-bit floats."""
    with jax.enable_x64(True):
        yield
