"""Four ways to average the same token losses: by hand, against each other, under padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.losses.aggregation import MODES, aggregate

LOSSES = jnp.array([[1.0, 3.0, 5.0], [6.0, 9.0, 9.0], [9.0, 9.0, 9.0]])
LENGTHS = jnp.array([3, 1, 0])
MASK = jnp.arange(3)[None, :] < LENGTHS[:, None]
BY_HAND = {
    "token_mean": 15 / 4,
    "sequence_mean": (3 + 6) / 2,
    "sequence_sum": (9 + 6) / 2,
    "constant_length": 15 / (2 * 10),
}


def test_by_hand():
    found = {mode: aggregate(LOSSES, MASK, mode=mode, max_length=10) for mode in MODES}
    for mode, expected in BY_HAND.items():
        assert found[mode].shape == ()
        np.testing.assert_allclose(found[mode], expected, rtol=1e-6)
    # What a mean over all three rows, or over slots in place of tokens, would give.
    assert abs(float(found["sequence_mean"]) - 3.0) > 1
    assert abs(float(found["token_mean"]) - 15 / 9) > 1


def test_full_rows_differ_by_known_constants_only(float64):
    losses = jnp.array(np.random.default_rng(0).normal(size=(5, 7)))
    mask = jnp.ones((5, 7), bool)
    found = {mode: float(aggregate(losses, mask, mode=mode, max_length=20)) for mode in MODES}
    mean = float(jnp.mean(losses))
    expected = {
        "token_mean": mean,
        "sequence_mean": mean,
        "sequence_sum": 7 * mean,
        "constant_length": 7 * mean / 20,
    }
    assert found == pytest.approx(expected, rel=1e-12)


def test_constant_length_is_the_sum_over_a_constant(float64):
    losses = jnp.array(np.random.default_rng(1).normal(size=(3, 3)))
    by_sum = aggregate(losses, MASK, mode="sequence_sum")
    found = aggregate(losses, MASK, mode="constant_length", max_length=4)
    np.testing.assert_allclose(4 * found, by_sum, rtol=1e-12)


@pytest.mark.parametrize("mode", MODES)
def test_gradient_is_the_weight_of_a_token(mode):
    found = jax.grad(lambda x: aggregate(x, MASK, mode=mode, max_length=10))(LOSSES)
    long, short = {
        "token_mean": (1 / 4, 1 / 4),
        "sequence_mean": (1 / 6, 1 / 2),  # a token of the long text counts a third
        "sequence_sum": (1 / 2, 1 / 2),
        "constant_length": (1 / 20, 1 / 20),
    }[mode]
    np.testing.assert_allclose(found, [[long] * 3, [short, 0, 0], [0, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("junk", [jnp.nan, jnp.inf, -5.0])
def test_padding_changes_nothing(mode, junk):
    def loss(x, mask):
        return aggregate(x, mask, mode=mode, max_length=10)

    wide = jnp.pad(jnp.where(MASK, LOSSES, junk), ((0, 2), (0, 3)), constant_values=junk)
    mask = jnp.pad(MASK, ((0, 2), (0, 3)))
    assert loss(wide, mask) == loss(LOSSES, MASK)
    gradients = jax.grad(loss)(wide, mask)
    np.testing.assert_array_equal(gradients[:3, :3], jax.grad(loss)(LOSSES, MASK))
    assert np.isnan(loss(LOSSES.at[0, 0].set(jnp.nan), MASK))


@pytest.mark.parametrize("mode", MODES)
def test_nothing_real_is_zero(mode):
    none = jnp.zeros_like(MASK)

    def loss(x):
        return aggregate(x, none, mode=mode, max_length=10)

    value, gradient = jax.value_and_grad(loss)(LOSSES)
    assert value == 0 and np.all(gradient == 0)


def test_traced_max_length_under_jit_and_vmap():
    lanes = jax.jit(
        jax.vmap(lambda n: aggregate(LOSSES, MASK, mode="constant_length", max_length=n))
    )(jnp.array([5.0, 10.0]))
    np.testing.assert_allclose(lanes, [1.5, 0.75], rtol=1e-6)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"mode='mean'.*token_mean, sequence_mean"):
        aggregate(LOSSES, MASK, mode="mean")
    with pytest.raises(ValueError, match="needs max_length"):
        aggregate(LOSSES, MASK, mode="constant_length")
    with pytest.raises(AssertionError):
        aggregate(LOSSES, MASK[:2], mode="sequence_sum")
    with pytest.raises(AssertionError):
        aggregate(LOSSES, LOSSES, mode="token_mean")
