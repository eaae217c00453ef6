"""PPO losses: every branch by hand, where the gradient goes, and the edges of float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.losses.ppo import approx_kl, clip_fraction, ppo_clip_loss, value_loss

CLIP = dict(clip_low=0.2, clip_high=0.3)
# ratio, advantage, loss, whether a gradient remains
BRANCHES = [
    (1.0, 2.0, -2.0, True),
    (1.25, 2.0, -2.5, True),  # inside: a symmetric clip of 0.2 would say -2.4
    (1.5, 2.0, -2.6, False),
    (0.5, 2.0, -1.0, True),  # worse than the sampler on a good token: pulled back
    (0.5, -2.0, 1.6, False),
    (0.75, -2.0, 1.6, False),  # outside clip_low but inside clip_high
    (0.85, -2.0, 1.7, True),
    (1.5, -2.0, 3.0, True),
    (9.0, -2.0, 18.0, True),
]


def loss_and_gradient(ratio, advantage, **kwargs):
    def loss(log_prob):
        return ppo_clip_loss(log_prob, jnp.array(-1.0), jnp.array(advantage), **kwargs)

    return jax.value_and_grad(loss)(jnp.log(ratio) - 1.0)


@pytest.mark.parametrize("ratio, advantage, expected, moves", BRANCHES)
def test_every_branch_by_hand(ratio, advantage, expected, moves):
    loss, gradient = loss_and_gradient(ratio, advantage, **CLIP)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, -advantage * ratio if moves else 0.0, rtol=1e-5)


def test_min_and_max_are_not_swapped():
    loss, _ = loss_and_gradient(1.5, 2.0, **CLIP)
    assert abs(float(loss) + 3.0) > 0.3  # min of the two losses: no clipping where it matters


@pytest.mark.parametrize(
    "ratio, advantage, expected, moves",
    [(9.0, -2.0, 6.0, False), (2.0, -2.0, 4.0, True), (9.0, 2.0, -2.6, False), (0.5, -2, 1.6, 0)],
)
def test_dual_clip_by_hand(ratio, advantage, expected, moves):
    loss, gradient = loss_and_gradient(ratio, float(advantage), dual_clip=3.0, **CLIP)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, -advantage * ratio if moves else 0.0, rtol=1e-5)


def test_first_minibatch_is_the_vanilla_policy_gradient(float64):
    rng = np.random.default_rng(0)
    log_probs, advantages = jnp.array(-rng.random((3, 4))), jnp.array(rng.normal(size=(3, 4)))

    def total(x):
        return jnp.sum(ppo_clip_loss(x, log_probs, advantages, **CLIP))

    np.testing.assert_allclose(jax.grad(total)(log_probs), -advantages, rtol=1e-12)
    assert np.all(clip_fraction(log_probs, log_probs, advantages, **CLIP) == 0)
    assert np.all(approx_kl(log_probs, log_probs) == 0)


def test_never_below_the_unclipped_surrogate(float64):
    rng = np.random.default_rng(1)
    log_probs, advantages = rng.normal(size=200), rng.normal(size=200)
    unclipped = -advantages * np.exp(log_probs)
    args = jnp.array(log_probs), jnp.zeros(200), jnp.array(advantages)
    assert np.all(ppo_clip_loss(*args, **CLIP) >= unclipped - 1e-12)


@pytest.mark.parametrize("ratio, advantage, expected, moves", BRANCHES)
def test_clip_fraction_counts_lost_gradients(ratio, advantage, expected, moves):
    args = jnp.log(jnp.array([ratio])), jnp.zeros(1), jnp.array([advantage])
    assert clip_fraction(*args, **CLIP).tolist() == [0.0 if moves else 1.0]


@pytest.mark.parametrize("dual_clip", [None, 3.0])
@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("log_ratio", [50.0, -50.0, 150.0, -150.0, jnp.inf, -jnp.inf])
def test_finite_gradients_at_extremes(log_ratio, advantage, dual_clip):
    def loss(log_prob):
        behavior = jnp.array(-1.0 - log_ratio)
        return ppo_clip_loss(log_prob, behavior, jnp.array(advantage), dual_clip=dual_clip, **CLIP)

    value, gradient = jax.value_and_grad(loss)(jnp.array(-1.0))
    assert np.isfinite(value) and np.isfinite(gradient)


def test_nan_is_not_hidden():
    bad, good = jnp.array(jnp.nan), jnp.array(1.0)
    for args in ((bad, good, good), (good, bad, good), (good, good, bad)):
        assert np.isnan(ppo_clip_loss(*args, **CLIP))
        assert np.isnan(value_loss(*args, clip=0.2))
        assert np.isnan(value_loss(*args, clip=0.2, huber_delta=1.0))


def test_value_loss_by_hand():
    args = jnp.array([2.0, 2.0, 0.1]), jnp.zeros(3), jnp.array([3.0, 1.0, 1.0])
    np.testing.assert_allclose(value_loss(*args), [0.5, 0.5, 0.405], rtol=1e-6)
    # Clipped to 0.5, 0.5, 0.1: squares 6.25, 0.25, 0.81 against 1, 1, 0.81.
    clipped = value_loss(*args, clip=0.5)
    np.testing.assert_allclose(clipped, [3.125, 0.5, 0.405], rtol=1e-6)
    assert clipped.tolist()[0] != 0.5  # the minimum of the two
    np.testing.assert_allclose(
        jax.grad(lambda v: jnp.sum(value_loss(v, *args[1:], clip=0.5)))(args[0]),
        [0.0, 1.0, -0.9],  # too far out on the wrong side of the clip: no gradient
        rtol=1e-6,
        atol=1e-7,
    )


def test_huber_by_hand():
    errors = jnp.array([0.0, 0.5, -1.0, 2.0, -4.0])
    zeros = jnp.zeros(5)
    found = value_loss(errors, zeros, zeros, huber_delta=1.0)
    np.testing.assert_allclose(found, [0, 0.125, 0.5, 1.5, 3.5], rtol=1e-6)
    assert abs(float(found[3]) - 2.0) > 0.4  # delta |e|: a jump at delta
    slopes = jax.grad(lambda v: jnp.sum(value_loss(v, zeros, zeros, huber_delta=1.0)))(errors)
    np.testing.assert_allclose(slopes, jnp.clip(errors, -1, 1), rtol=1e-6)


def test_huber_takes_the_larger_of_clipped_and_unclipped():
    args = jnp.array([2.0, 2.0, 0.1]), jnp.zeros(3), jnp.array([3.0, 1.0, 1.0])
    # Clipped to 0.5, 0.5, 0.1: errors 2.5, 0.5, 0.9 against 1, 1, 0.9.
    found = value_loss(*args, clip=0.5, huber_delta=0.8)
    np.testing.assert_allclose(found, [0.8 * 2.1, 0.8 * 0.6, 0.8 * 0.5], rtol=1e-6)


@pytest.mark.parametrize("clip", [None, 0.3])
def test_a_wide_huber_is_the_square(clip, float64):
    args = [jnp.array(x) for x in np.random.default_rng(2).normal(size=(3, 50))]
    square = value_loss(*args, clip=clip)
    np.testing.assert_allclose(value_loss(*args, clip=clip, huber_delta=100.0), square, rtol=1e-12)
    narrow = value_loss(*args, clip=clip, huber_delta=0.5)
    assert np.all(narrow <= square + 1e-12) and np.any(narrow < square - 0.1)


@pytest.mark.parametrize("huber_delta", [None, 1.0])
def test_value_loss_finite_at_extremes(huber_delta):
    values, zeros = jnp.array([1e15, -1e15]), jnp.zeros(2)
    kwargs = dict(clip=0.2, huber_delta=huber_delta)
    gradient = jax.grad(lambda v: jnp.sum(value_loss(v, zeros, zeros, **kwargs)))
    assert np.all(np.isfinite(gradient(values)))
    assert np.all(np.isfinite(value_loss(values, zeros, zeros, huber_delta=huber_delta)))


def test_approx_kl_is_half_the_square():
    assert float(approx_kl(jnp.array(-1.0), jnp.array(-3.0))) == 2.0


def test_traced_hyperparameters_under_jit_and_vmap():
    log_probs, advantages = jnp.log(jnp.array([1.5, 0.5])), jnp.array([2.0, -2.0])

    def both(eps):
        kwargs = dict(clip_low=eps, clip_high=eps)
        return (
            ppo_clip_loss(log_probs, jnp.zeros(2), advantages, dual_clip=2 + eps, **kwargs),
            value_loss(log_probs, jnp.zeros(2), advantages, clip=eps),
            value_loss(log_probs, jnp.zeros(2), advantages, huber_delta=eps),
            clip_fraction(log_probs, jnp.zeros(2), advantages, **kwargs),
        )

    lanes = jax.jit(jax.vmap(both))(jnp.array([0.1, 0.9]))
    for lane, eps in enumerate((0.1, 0.9)):
        for found, expected in zip(lanes, both(eps)):
            np.testing.assert_allclose(found[lane], expected, rtol=1e-5)
    assert lanes[3].tolist() == [[1.0, 1.0], [0.0, 0.0]]


def test_shapes_are_checked():
    with pytest.raises(AssertionError):
        ppo_clip_loss(jnp.zeros(2), jnp.zeros(2), jnp.zeros(()), **CLIP)
    with pytest.raises(AssertionError):
        value_loss(jnp.zeros(2), jnp.zeros(2), jnp.zeros(3))
