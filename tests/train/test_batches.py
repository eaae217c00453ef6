"""Which rows come when."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.train.batches import batch_rows, in_batches, minibatches, num_rows, take

KEY = jax.random.key(0)


def rows(step, size=10, batch_size=3, key=KEY):
    return batch_rows(key, jnp.array(step), size=size, batch_size=batch_size).tolist()


def test_an_epoch_repeats_no_row_and_the_next_has_another_order():
    epochs = [[row for i in range(3) for row in rows(3 * e + i)] for e in range(4)]
    assert all(len(set(epoch)) == 9 for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert len({10 * 9 // 2 - sum(epoch) for epoch in epochs}) > 1  # the row left out changes


def test_a_step_can_be_replayed_alone():
    assert rows(7) == rows(7)
    assert rows(7) != rows(7, key=jax.random.key(1))
    assert jax.jit(batch_rows, static_argnames=("size", "batch_size"))(
        KEY, jnp.array(7), size=10, batch_size=3
    ).tolist() == rows(7)


def test_too_few_rows_are_drawn_with_replacement():
    drawn = [rows(i, size=2, batch_size=5) for i in range(8)]
    assert all(len(d) == 5 and set(d) <= {0, 1} for d in drawn)
    assert len({tuple(d) for d in drawn}) > 1


def test_minibatches_are_a_shuffle_of_all_rows_kept_together():
    tree = {"a": jnp.arange(8), "b": jnp.arange(16).reshape(8, 2)}
    parts = minibatches(tree, KEY, 4)
    assert parts["a"].shape == (4, 2) and parts["b"].shape == (4, 2, 2)
    assert sorted(parts["a"].ravel().tolist()) == list(range(8))
    assert parts["a"].ravel().tolist() != list(range(8))
    np.testing.assert_array_equal(parts["b"][..., 0], 2 * parts["a"])


@pytest.mark.parametrize("size, shape", [(10, (3, 4)), (8, (2, 4)), (3, (1, 3))])
def test_in_batches_pads_the_rest_with_zeros(size, shape):
    tree = {"x": jnp.arange(1, size + 1), "mask": jnp.ones((size, 2), bool)}
    split = in_batches(tree, 4)
    assert split["x"].shape == shape and split["mask"].shape == (*shape, 2)
    flat = split["x"].ravel()
    np.testing.assert_array_equal(flat[:size], tree["x"])
    assert not flat[size:].any() and int(split["mask"].sum()) == 2 * size


def test_take_and_num_rows():
    tree = {"x": jnp.arange(4) * 10}
    assert num_rows(tree) == 4
    assert take(tree, jnp.array([3, 0]))["x"].tolist() == [30, 0]
