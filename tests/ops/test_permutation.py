"""A random permutation that is asked for single positions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops.permutation import permuted

DRAWS = 20_000


def orders(size, draws=DRAWS):
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), jnp.arange(draws))
    return np.asarray(jax.vmap(lambda key: permuted(key, jnp.arange(size), size))(keys))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 17, 100, 1025])
def test_it_is_a_permutation(size):
    found = orders(size, draws=20)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(size), (20, 1)))


@pytest.mark.parametrize("size", [2, 3, 5, 8, 17])
def test_every_row_is_as_likely_at_every_place(size):
    found = orders(size)
    counts = np.stack([np.bincount(column, minlength=size) for column in found.T])
    # The largest of at most 289 standard normal numbers is above 4.5 once in 500 times.
    assert np.abs(counts - DRAWS / size).max() / np.sqrt(DRAWS / size) < 4.5


@pytest.mark.parametrize("size", [3, 5, 9])
def test_neighbours_have_nothing_to_do_with_each_other(size):
    found = orders(size)
    counts = np.bincount((found[:, 1] - found[:, 0]) % size, minlength=size)[1:]
    assert np.abs(counts - DRAWS / (size - 1)).max() / np.sqrt(DRAWS / (size - 1)) < 4.5


def test_all_orders_of_four_come():
    assert len({tuple(order) for order in orders(4).tolist()}) == 24


def test_positions_may_be_asked_for_alone_and_in_any_shape():
    key, size = jax.random.key(3), 1000
    whole = permuted(key, jnp.arange(size), size)
    some = jnp.array([[7, 999], [0, 500]])
    np.testing.assert_array_equal(permuted(key, some, size), whole[some])
