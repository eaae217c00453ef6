"""Log-probabilities and entropies against their definitions, and at the edges of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from rlhf_jax.ops import distributions
from rlhf_jax.ops.distributions import entropy, log_probs_of, probability_ratio, sample

EXTREMES = {
    "forbidden": [0.0, 1.0, -jnp.inf, -jnp.inf],
    "one_left": [-jnp.inf, 3.0, -jnp.inf, -jnp.inf],
    "mask_value": [0.0, 1.0, -1e9, jnp.finfo(jnp.float32).min],
    "huge": [1e30, -1e30, 0.0, 1e30],
    "underflow": [0.0, -95.0, -103.0, -200.0],
}


def test_by_hand():
    logits = jnp.log(jnp.array([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])) + 5.0  # a shift is harmless
    picked = log_probs_of(logits, jnp.array([0, 2]))
    np.testing.assert_allclose(jnp.exp(picked), [0.5, 0.7], rtol=1e-6)
    np.testing.assert_allclose(entropy(logits)[0], 1.5 * np.log(2), rtol=1e-6)
    assert abs(float(entropy(logits)[0]) - 1.5) > 0.4  # in bits, not nats


def test_against_the_definition(float64):
    rng = np.random.default_rng(1)
    logits, tokens = rng.normal(size=(3, 4, 6)) * 3, rng.integers(6, size=(3, 4))
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for i, j in np.ndindex(3, 4):
        p = probs[i, j]
        found = log_probs_of(jnp.array(logits), jnp.array(tokens))[i, j]
        np.testing.assert_allclose(found, np.log(p[tokens[i, j]]), rtol=1e-12)
        np.testing.assert_allclose(
            entropy(jnp.array(logits))[i, j], -sum(p * np.log(p)), rtol=1e-12
        )


def test_gradients_are_the_textbook_ones(float64):
    logits = jnp.array([0.3, -1.0, 2.0])
    probs = jax.nn.softmax(logits)
    gradient = jax.grad(log_probs_of)(logits, jnp.array(1))
    np.testing.assert_allclose(gradient, jnp.array([0.0, 1.0, 0.0]) - probs, rtol=1e-12)
    expected = -probs * (jnp.log(probs) + entropy(logits))
    np.testing.assert_allclose(jax.grad(entropy)(logits), expected, rtol=1e-12)


@pytest.mark.parametrize("name", EXTREMES)
def test_finite_values_and_gradients_at_extremes(name):
    logits = jnp.array(EXTREMES[name])
    assert 0 <= float(entropy(logits)) <= np.log(4)
    assert np.all(np.isfinite(jax.grad(entropy)(logits)))
    best = jnp.argmax(logits)
    assert np.isfinite(log_probs_of(logits, best))
    for token in range(4):  # the gradient is finite even where the log-probability is -inf
        assert np.all(np.isfinite(jax.grad(log_probs_of)(logits, jnp.array(token))))


def test_forbidden_tokens_change_nothing():
    logits = jnp.array([0.3, -1.0, 2.0])
    padded = jnp.concatenate([logits, jnp.full(2, -jnp.inf)])
    np.testing.assert_allclose(entropy(padded), entropy(logits), rtol=1e-6)
    assert log_probs_of(padded, jnp.array(2)) == log_probs_of(logits, jnp.array(2))
    assert log_probs_of(padded, jnp.array(4)) == -jnp.inf
    assert np.isnan(log_probs_of(logits, jnp.array(7)))  # no such token


def test_entropy_of_a_sure_thing_and_of_a_fair_die():
    np.testing.assert_allclose(entropy(jnp.zeros(6)), np.log(6), rtol=1e-6)
    assert float(entropy(jnp.array([0.0, -jnp.inf]))) == 0.0


def test_ratio():
    log_ratios = jnp.array([0.0, np.log(2.0), -50.0, 50.0, 300.0, jnp.inf], jnp.float32)
    ratios = probability_ratio(log_ratios, jnp.zeros(6))
    np.testing.assert_allclose(ratios[:4], np.exp([0.0, np.log(2.0), -50, 50]), rtol=1e-5)
    assert np.all(np.isfinite(ratios))
    assert np.all(np.isfinite(jax.grad(lambda x: probability_ratio(x, jnp.zeros(6)).sum())(ratios)))
    assert np.isnan(probability_ratio(jnp.array(jnp.nan), jnp.array(0.0)))


def test_shapes_and_dtypes_are_checked():
    with pytest.raises(AssertionError):
        log_probs_of(jnp.zeros((2, 3)), jnp.array([0, 1, 2]))
    with pytest.raises(AssertionError):
        log_probs_of(jnp.zeros((2, 3)), jnp.zeros(2))
    with pytest.raises(AssertionError):
        entropy(jnp.array([1, 2]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("size", [5, 300])
def test_draws_follow_the_probabilities(size, dtype):
    count = 200_000
    logits = jnp.asarray(np.random.default_rng(size).normal(size=size), dtype)
    draws = jax.jit(sample)(jax.random.key(1), jnp.broadcast_to(logits, (count, size)))
    expected = count * np.asarray(jax.nn.softmax(logits.astype(jnp.float32)), np.float64)
    found = np.bincount(draws, minlength=size)
    assert draws.dtype == jnp.int32 and found.size == size
    chi_square = ((found - expected) ** 2 / expected).sum()
    assert chi_square < scipy.stats.chi2.isf(1e-3, size - 1)


@pytest.mark.parametrize("logits", EXTREMES.values(), ids=EXTREMES)
def test_nothing_forbidden_is_drawn(logits):
    weights = jnp.exp(jnp.array(logits) - max(logits))
    draws = sample(jax.random.key(2), jnp.broadcast_to(jnp.array(logits), (1000, 4)))
    assert set(np.unique(draws)) <= set(np.flatnonzero(weights > 0))


def test_roundings_of_the_sums_draw_nothing_forbidden(monkeypatch):
    """Sums in parallel may rise at a token without weight, and fall after it."""
    logits = jnp.array([-jnp.inf, 0.0, -jnp.inf, 0.0, 0.0, -jnp.inf])
    sums = jnp.array([0.2, 1.0, 1.2, 2.0, 3.0, 3.2])
    monkeypatch.setattr(
        distributions.jnp, "cumsum", lambda x, axis: jnp.broadcast_to(sums, x.shape)
    )
    found = np.unique(sample(jax.random.key(3), jnp.broadcast_to(logits, (2000, 6))))
    assert found.tolist() == [1, 3, 4]
