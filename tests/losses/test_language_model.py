"""Next-token cross-entropy: alignment, masking and extremes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.losses.language_model import cross_entropy
from rlhf_jax.ops.masked import masked_mean

PROBS = np.array([[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8], [0.25, 0.25, 0.5]]])
TOKENS = np.array([[0, 2, 1]])


def test_by_hand():
    found = cross_entropy(jnp.log(jnp.array(PROBS, jnp.float32)), jnp.array(TOKENS))
    np.testing.assert_allclose(jnp.exp(-found), [[0.5, 0.8, 0.25]], rtol=1e-6)
    off_by_one = [[0.2, 0.1, 0.25]]  # position t scored with token t + 1
    assert np.max(np.abs(np.exp(-found) - off_by_one)) > 0.5


def test_gradient_is_softmax_less_one_hot(float64):
    logits = jnp.log(jnp.array(PROBS))
    gradient = jax.grad(lambda x: jnp.sum(cross_entropy(x, jnp.array(TOKENS))))(logits)
    np.testing.assert_allclose(gradient, PROBS - np.eye(3)[TOKENS], atol=1e-12)


def test_masked_equals_subset_and_padding_is_anywhere(float64):
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(size=(2, 4, 5)), rng.integers(5, size=(2, 4))

    def loss(pads):
        sides = ((0, 0), pads)
        wide = jnp.pad(jnp.array(logits), (*sides, (0, 0)), constant_values=jnp.nan)
        ids = jnp.pad(jnp.array(tokens), sides)
        mask = jnp.pad(jnp.ones(tokens.shape, bool), sides)
        return masked_mean(cross_entropy(wide, ids), mask)

    for pads in ((0, 3), (3, 0), (1, 2)):
        np.testing.assert_allclose(loss(pads), loss((0, 0)), rtol=1e-12)


def test_finite_at_extremes():
    logits = jnp.array([[[0.0, -jnp.inf, 80.0], [1e30, 0.0, -1e30]]])
    loss, gradient = jax.value_and_grad(
        lambda x: jnp.sum(cross_entropy(x, jnp.array([[0, 1]]))),
    )(logits)
    assert np.isfinite(loss)
    assert np.all(np.isfinite(gradient))


def test_shapes_are_checked_and_jit_agrees():
    logits, tokens = jnp.zeros((1, 3, 4)), jnp.array([[0, 1, 2]])
    np.testing.assert_allclose(jax.jit(cross_entropy)(logits, tokens), np.log(4), rtol=1e-6)
    with pytest.raises(AssertionError):
        cross_entropy(logits[:, :-1], tokens)
    with pytest.raises(AssertionError):
        cross_entropy(logits[0], tokens[0])
