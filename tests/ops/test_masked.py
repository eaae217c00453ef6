"""Masked statistics: hand-worked values, masked == subset, and nothing leaks from padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops.masked import (
    completion_mask,
    last_index,
    masked_mean,
    masked_sum,
    masked_var,
    masked_whiten,
)

X = jnp.array([[1.0, 2.0, 99.0], [6.0, 99.0, 99.0]])
MASK = jnp.array([[True, True, False], [True, False, False]])
STATISTICS = {
    "sum": masked_sum,
    "mean": masked_mean,
    "var": masked_var,
    "var_ddof": lambda x, mask: masked_var(x, mask, ddof=1),
    "whiten": masked_whiten,
    "whiten_keep_mean": lambda x, mask: masked_whiten(x, mask, shift_mean=False, ddof=1),
}


def test_masked_mean_by_hand():
    mean = float(masked_mean(X, MASK))
    assert mean == 3.0  # (1 + 2 + 6) / 3
    assert mean != 1.5  # divided by all six slots
    assert mean != 3.75  # the mean of the row means, 1.5 and 6
    assert masked_mean(X, MASK, axis=1).tolist() == [1.5, 6.0]
    assert masked_mean(X, MASK, axis=0).tolist() == [3.5, 2.0, 0.0]  # nothing kept: 0
    assert float(masked_sum(X, MASK)) == 9.0


def test_masked_var_by_hand():
    # Deviations from 3 are -2, -1, 3; their squares sum to 14.
    np.testing.assert_allclose(masked_var(X, MASK), 14 / 3, rtol=1e-6)
    np.testing.assert_allclose(masked_var(X, MASK, ddof=1), 7.0, rtol=1e-6)
    assert masked_var(X, MASK, axis=1).tolist() == [0.25, 0.0]
    assert masked_var(X, MASK, axis=1, ddof=1).tolist() == [0.5, 0.0]  # one entry: 0, not 0 / 0


def test_masked_whiten_by_hand():
    x, mask = jnp.array([1.0, 3.0, 50.0]), jnp.array([True, True, False])
    np.testing.assert_allclose(masked_whiten(x, mask), [-1, 1, 0], atol=1e-6)  # biased std 1
    unbiased = masked_whiten(x, mask, ddof=1)  # std sqrt 2
    np.testing.assert_allclose(unbiased, [-(0.5**0.5), 0.5**0.5, 0], atol=1e-6)
    x = jnp.array([0.0, 4.0, 50.0])  # mean 2, std 2
    kept = masked_whiten(x, mask, shift_mean=False)
    np.testing.assert_allclose(kept, [1, 3, 0], atol=1e-6)  # the mean stays 2
    assert abs(float(kept[1]) - 2.0) > 0.5  # x / std, which scales the mean as well


def test_epsilon_is_added_to_the_variance():
    x, mask = jnp.array([-1.0, 1.0]), jnp.array([True, True])
    np.testing.assert_allclose(masked_whiten(x, mask, epsilon=3.0), [-0.5, 0.5], rtol=1e-6)
    assert abs(float(masked_whiten(x, mask, epsilon=3.0)[1]) - 0.25) > 0.1  # 1 / (std + epsilon)


@pytest.mark.parametrize("name", STATISTICS)
def test_masked_equals_subset(name, float64):
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(5, 7)) * 10, rng.random((5, 7)) < 0.6
    kept = x[mask]
    masked = STATISTICS[name](jnp.array(x), jnp.array(mask))
    subset = STATISTICS[name](jnp.array(kept), jnp.ones(kept.shape, bool))
    masked = masked[jnp.array(mask)] if masked.ndim else masked
    np.testing.assert_allclose(masked, subset, rtol=1e-12)
    if name.startswith("var"):
        np.testing.assert_allclose(masked, kept.var(ddof=int(name == "var_ddof")), rtol=1e-12)


@pytest.mark.parametrize("junk", [jnp.nan, jnp.inf, -jnp.inf, 3e38])
@pytest.mark.parametrize("name", STATISTICS)
def test_padding_reaches_neither_value_nor_gradient(name, junk):
    clean, dirty = jnp.where(MASK, X, 0.0), jnp.where(MASK, X, junk)

    def total(x):
        return jnp.sum(jnp.sin(STATISTICS[name](x, MASK)))

    np.testing.assert_array_equal(STATISTICS[name](clean, MASK), STATISTICS[name](dirty, MASK))
    gradient = jax.grad(total)(dirty)
    np.testing.assert_array_equal(gradient, jax.grad(total)(clean))
    assert np.all(gradient[~MASK] == 0)


@pytest.mark.parametrize("name", STATISTICS)
def test_nan_on_a_real_entry_is_not_hidden(name):
    result = STATISTICS[name](X.at[0, 0].set(jnp.nan), MASK)
    assert np.isnan(np.asarray(result).ravel()[0])


@pytest.mark.parametrize("name", STATISTICS)
def test_all_masked_is_zero_with_finite_gradient(name):
    empty = jnp.zeros_like(MASK)
    assert np.all(STATISTICS[name](X, empty) == 0)
    assert np.all(jax.grad(lambda x: jnp.sum(STATISTICS[name](x, empty)))(X) == 0)


def test_whiten_of_equal_values_has_finite_gradient():
    x, mask = jnp.full(4, 2.0), jnp.ones(4, bool)
    assert masked_whiten(x, mask).tolist() == [0.0] * 4
    assert np.all(np.isfinite(jax.jacobian(lambda x: masked_whiten(x, mask))(x)))


def test_whiten_under_jit_and_vmap_with_traced_epsilon():
    def whiten(x, epsilon):
        return masked_whiten(x, jnp.ones(x.shape, bool), epsilon=epsilon)

    xs, epsilons = jnp.array([[1.0, 3.0], [0.0, 8.0]]), jnp.array([0.0, 9.0])
    result = jax.jit(jax.vmap(whiten))(xs, epsilons)
    np.testing.assert_allclose(result, [[-1, 1], [-0.8, 0.8]], rtol=1e-6)


def test_shapes_and_dtypes_are_checked():
    with pytest.raises(AssertionError):
        masked_mean(X, MASK[0])
    with pytest.raises(AssertionError):
        masked_mean(jnp.array([1, 2]), jnp.array([True, False]))


def test_last_index_with_padding_on_either_side():
    rows = {
        (1, 1, 1, 0): 2,
        (0, 1, 1, 1): 3,  # a count of the real tokens less one would say 2
        (0, 1, 1, 0): 2,
        (1, 0, 1, 0): 2,
        (1, 0, 0, 0): 0,
        (0, 0, 0, 0): 0,
    }
    assert last_index(jnp.array(list(rows), bool)).tolist() == list(rows.values())
    assert int(last_index(jnp.array([True, True, False]))) == 1


def test_completion_mask_keeps_the_first_eos_and_nothing_after():
    tokens = jnp.array([[5, 2, 0, 0], [2, 5, 2, 5], [5, 6, 7, 2], [5, 6, 7, 8]])
    mask = completion_mask(tokens, eos_id=2)
    assert mask.sum(axis=1).tolist() == [2, 1, 4, 4]
    assert mask.sum(axis=1).tolist() != [1, 0, 3, 4]  # the EOS itself dropped
    assert mask[0].tolist() == [True, True, False, False]
    same = jax.jit(jax.vmap(completion_mask, in_axes=(0, None)))(tokens, jnp.int32(2))
    np.testing.assert_array_equal(mask, same)
