"""Bradley-Terry: hand-worked values, its optimum, its free constant, and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.losses.reward_model import bradley_terry_loss, centering_loss


def test_by_hand():
    chosen, rejected = jnp.array([1.0, 2.0, 0.0]), jnp.array([1.0, 1.0, 1.0])
    loss = bradley_terry_loss(chosen, rejected)
    expected = np.log(1 + np.exp([0.0, -1.0, 1.0]))  # log 2, 0.3133, 1.3133
    np.testing.assert_allclose(loss, expected, rtol=1e-6)
    assert float(loss[1]) < 1  # chosen and rejected swapped: 1.3133
    with_margin = bradley_terry_loss(chosen, rejected, margin=1.0)
    np.testing.assert_allclose(with_margin[1], np.log(2), rtol=1e-6)
    assert float(with_margin[1]) > 0.5  # margin added instead: log(1 + e^-2) = 0.1269
    per_pair = bradley_terry_loss(chosen, rejected, margin=jnp.array([0.0, 1.0, -1.0]))
    np.testing.assert_allclose(per_pair, np.full(3, np.log(2)), rtol=1e-6)
    assert centering_loss(chosen, rejected).tolist() == [4.0, 9.0, 1.0]
    assert centering_loss(chosen, rejected).tolist()[0] != 2.0  # c^2 + r^2


def test_optimum_is_the_log_odds_and_a_constant_is_free(float64):
    """With P(chosen) = p the expected loss is least at the gap log p / (1 - p)."""

    def expected(gap, shift=0.0):
        a, b = jnp.array(gap + shift), jnp.array(shift)
        return 0.8 * bradley_terry_loss(a, b) + 0.2 * bradley_terry_loss(b, a)

    best = np.log(4.0)
    assert abs(jax.grad(expected)(best)) < 1e-12
    entropy = -0.8 * np.log(0.8) - 0.2 * np.log(0.2)
    np.testing.assert_allclose(expected(best), entropy, rtol=1e-12)
    np.testing.assert_allclose(expected(best, shift=7.0), entropy, rtol=1e-12)
    assert centering_loss(jnp.array(best / 2), jnp.array(-best / 2)) == 0
    assert centering_loss(jnp.array(best), jnp.array(0.0)) > 0


@pytest.mark.parametrize("gap", [50.0, -50.0, 1e4, -1e4])
def test_finite_at_extremes(gap):
    loss, gradient = jax.value_and_grad(bradley_terry_loss)(jnp.array(gap), jnp.array(0.0))
    np.testing.assert_allclose(loss, max(-gap, 0.0), atol=1e-6)
    np.testing.assert_allclose(gradient, -1.0 if gap < 0 else 0.0, atol=1e-6)


def test_nan_is_not_hidden_and_shapes_are_checked():
    assert np.isnan(bradley_terry_loss(jnp.array(jnp.nan), jnp.array(0.0)))
    assert np.isnan(centering_loss(jnp.array(jnp.nan), jnp.array(0.0)))
    with pytest.raises(AssertionError):
        bradley_terry_loss(jnp.zeros((2, 1)), jnp.zeros(2))
    with pytest.raises(AssertionError):
        centering_loss(jnp.array([1]), jnp.array([1]))


def test_traced_margin_under_jit_and_vmap():
    def loss(margin):
        return bradley_terry_loss(jnp.array([1.0, 2.0]), jnp.array([0.0, 0.0]), margin=margin)

    found = jax.jit(jax.vmap(loss))(jnp.array([0.0, 1.0]))
    np.testing.assert_allclose(found[1], np.log(1 + np.exp([0.0, -1.0])), rtol=1e-6)
