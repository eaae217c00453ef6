"""KTO, SimPO and ORPO: hand-worked values, their gradients in closed form, and extremes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.losses.dpo import dpo_loss
from rlhf_jax.losses.preference import kto_loss, orpo_loss, simpo_loss

LOG_PROBS, REF = jnp.array([-1.0, -1.0, -5.0, -5.0]), jnp.full(4, -3.0)  # log-ratios 2 and -2
DESIRABLE = jnp.array([True, False, True, False])


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x)))


def log_odds(log_prob):
    return log_prob - np.log1p(-np.exp(log_prob))


def test_kto_by_hand():
    weights = dict(desirable_weight=3.0, undesirable_weight=0.5)
    losses, rewards = kto_loss(LOG_PROBS, REF, DESIRABLE, 1.0, beta=0.5, **weights)
    # beta (h - kl) is 0.5 and -1.5.
    expected = [3 * sigmoid(-0.5), 0.5 * sigmoid(0.5), 3 * sigmoid(1.5), 0.5 * sigmoid(-1.5)]
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert rewards.tolist() == [1.0, 1.0, -1.0, -1.0]
    unscaled = 3 * sigmoid(-(0.5 * 2 - 1))  # beta left off the KL
    assert abs(float(losses[0]) - unscaled) > 0.1


def test_kto_labels_mirror_each_other(float64):
    """At equal weights the two losses of a text sum to 1, and their gradients cancel."""
    log_probs = jnp.array(np.random.default_rng(0).normal(size=20))

    def of(label, x):
        return kto_loss(x, jnp.zeros(20), jnp.full(20, label), 0.3, beta=0.7)[0]

    np.testing.assert_allclose(of(True, log_probs) + of(False, log_probs), 1, rtol=1e-12)
    good = jax.grad(lambda x: jnp.sum(of(True, x)))(log_probs)
    bad = jax.grad(lambda x: jnp.sum(of(False, x)))(log_probs)
    assert np.all(good < 0)  # a desirable text is made likelier
    np.testing.assert_allclose(good, -bad, rtol=1e-10)
    p = sigmoid(0.7 * (np.asarray(log_probs) - 0.3))
    np.testing.assert_allclose(good, -0.7 * p * (1 - p), rtol=1e-10)


def test_kto_reference_point_is_a_constant_and_no_less_than_zero():
    def total(log_probs, kl):
        return jnp.sum(kto_loss(log_probs, REF, DESIRABLE, kl, beta=0.5, desirable_weight=3.0)[0])

    gradient = jax.grad(lambda x: total(x, jnp.mean(x - REF) + 1.0))(LOG_PROBS)
    np.testing.assert_array_equal(gradient, jax.grad(total)(LOG_PROBS, 1.0))
    assert jax.grad(total, argnums=1)(LOG_PROBS, 1.0) == 0
    assert total(LOG_PROBS, -2.0) == total(LOG_PROBS, 0.0) != total(LOG_PROBS, 0.5)


def test_simpo_by_hand():
    args = jnp.array([-0.5]), jnp.array([-2.0])
    loss, chosen, rejected = simpo_loss(*args, beta=2.0, margin=0.5)
    np.testing.assert_allclose(loss, -np.log([sigmoid(2.5)]), rtol=1e-5)
    assert (chosen.tolist(), rejected.tolist()) == ([-1.0], [-4.0])
    assert abs(float(loss[0]) + np.log(sigmoid(3.5))) > 0.02  # the margin's sign
    smoothed, _, _ = simpo_loss(*args, beta=2.0, margin=0.5, label_smoothing=0.1)
    expected = -0.9 * np.log(sigmoid(2.5)) - 0.1 * np.log(sigmoid(-2.5))
    np.testing.assert_allclose(smoothed, [expected], rtol=1e-5)


def test_simpo_without_a_margin_is_dpo_with_a_flat_reference(float64):
    rng = np.random.default_rng(1)
    pair = [jnp.array(-rng.random(9)) for _ in range(2)]
    kwargs = dict(beta=2.5, label_smoothing=0.2)
    flat = jnp.full(9, -1.7)
    np.testing.assert_allclose(
        simpo_loss(*pair, margin=0.0, **kwargs)[0], dpo_loss(*pair, flat, flat, **kwargs)[0]
    )


def test_orpo_by_hand():
    args = jnp.log(jnp.array([0.8])), jnp.log(jnp.array([0.5]))
    loss, chosen, rejected = orpo_loss(*args, beta=0.5)
    np.testing.assert_allclose(loss, [0.5 * np.log(1 + 1 / 4)], rtol=1e-5)  # odds 4 against 1
    np.testing.assert_allclose((chosen, rejected), 0.5 * np.log([[0.8], [0.5]]), rtol=1e-5)
    by_ratio = 0.5 * np.log(1 + 0.5 / 0.8)  # probabilities in place of odds
    assert abs(float(loss[0]) - by_ratio) > 0.1


def test_orpo_gradient_in_closed_form(float64):
    """d/d log p of the log-odds is 1 / (1 - p)."""
    chosen, rejected = np.log([0.8, 0.1, 0.999]), np.log([0.5, 0.9, 0.01])
    found = jax.grad(lambda x, y: jnp.sum(orpo_loss(x, y, beta=0.3)[0]), argnums=(0, 1))(
        jnp.array(chosen), jnp.array(rejected)
    )
    pull = -0.3 * sigmoid(log_odds(rejected) - log_odds(chosen))
    np.testing.assert_allclose(found[0], pull / (1 - np.exp(chosen)), rtol=1e-10)
    np.testing.assert_allclose(found[1], -pull / (1 - np.exp(rejected)), rtol=1e-10)


@pytest.mark.parametrize("log_prob", [-1e-6, -1e-5, -1e-3, -0.3, -0.7, -2.0, -40.0])
def test_log_odds_keep_their_digits_in_float32(log_prob):
    """The term alone grows like the log-odds of a rejected text, and shows every digit of them."""
    other = -30.0
    loss, _, _ = orpo_loss(jnp.array([other]), jnp.array([log_prob]), beta=1.0)
    expected = np.logaddexp(0, log_odds(np.float64(np.float32(log_prob))) - log_odds(other))
    np.testing.assert_allclose(loss, [expected], rtol=2e-6)


def test_orpo_at_and_beyond_a_certain_text():
    half = jnp.log(jnp.array(0.5))
    cap = -float(jnp.finfo(jnp.float32).eps)
    for side in (0, 1):

        def loss(x):
            pair = (x, half) if side == 0 else (half, x)  # noqa: B023
            return orpo_loss(*pair, beta=1.0)[0]

        value, gradient = jax.value_and_grad(loss)(jnp.array(0.0))
        assert np.isfinite(value) and gradient == 0
        assert value == loss(jnp.array(cap)) == loss(jnp.array(1e-6))  # rounded above 0
        below = jax.grad(loss)(jnp.array(4 * cap))
        assert np.isfinite(below) and (below < 0 if side == 0 else below > 1e5)
    np.testing.assert_allclose(value, -np.log(-cap), rtol=1e-5)  # the log-odds of the cap


PAIR_LOSSES = {
    "simpo": functools.partial(simpo_loss, beta=2.0, margin=0.5),
    "orpo": functools.partial(orpo_loss, beta=1.0),
}


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_the_chosen_text_is_pushed_up_and_the_rejected_down(name):
    rng = np.random.default_rng(2)
    pair = [jnp.array(-2 * rng.random(30) - 0.01, jnp.float32) for _ in range(2)]
    gradients = jax.grad(lambda x, y: jnp.sum(PAIR_LOSSES[name](x, y)[0]), argnums=(0, 1))(*pair)
    assert np.all(gradients[0] < 0) and np.all(gradients[1] > 0)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_pairs_finite_at_extremes(name):
    extremes = jnp.array([0.0, -1e-8, -1.0, -100.0, -1e4])
    pair = [x.ravel() for x in jnp.meshgrid(extremes, extremes)]
    gradients = jax.grad(lambda x, y: jnp.sum(PAIR_LOSSES[name](x, y)[0]), argnums=(0, 1))(*pair)
    assert np.all(np.isfinite(PAIR_LOSSES[name](*pair)[0])) and np.all(np.isfinite(gradients))
    assert np.isnan(PAIR_LOSSES[name](jnp.array(jnp.nan), jnp.array(-1.0))[0])


@pytest.mark.parametrize("label", [True, False])
@pytest.mark.parametrize("log_ratio", [50.0, -50.0, 1e4, -1e4])
def test_kto_finite_at_extremes(label, log_ratio):
    def loss(x):
        return kto_loss(x, jnp.array(0.0), jnp.array(label), 1e3, beta=1.0)[0]

    value, gradient = jax.value_and_grad(loss)(jnp.array(log_ratio))
    assert 0 <= value <= 1 and np.isfinite(gradient)
    assert np.isnan(loss(jnp.array(jnp.nan)))


def test_traced_hyperparameters_under_jit_and_vmap():
    pair = jnp.array([-0.5, -1.0]), jnp.array([-1.0, -0.2])

    def all_of_them(x):
        return (
            kto_loss(LOG_PROBS, REF, DESIRABLE, x, beta=x, desirable_weight=x)[0],
            simpo_loss(*pair, beta=x, margin=x, label_smoothing=x / 4)[0],
            orpo_loss(*pair, beta=x)[0],
        )

    lanes = jax.jit(jax.vmap(all_of_them))(jnp.array([0.1, 1.5]))
    for lane, x in enumerate((0.1, 1.5)):
        for found, expected in zip(lanes, all_of_them(x)):
            np.testing.assert_allclose(found[lane], expected, rtol=1e-5)


def test_mistakes_are_refused():
    for loss in PAIR_LOSSES.values():
        with pytest.raises(AssertionError):
            loss(jnp.zeros(2), jnp.zeros(3))
    with pytest.raises(AssertionError):
        kto_loss(LOG_PROBS, REF, DESIRABLE.astype(jnp.float32), 1.0, beta=0.1)
    with pytest.raises(AssertionError):
        kto_loss(LOG_PROBS, REF, DESIRABLE[:2], 1.0, beta=0.1)
    with pytest.raises(AssertionError):
        kto_loss(LOG_PROBS, REF, DESIRABLE, jnp.zeros(4), beta=0.1)  # a KL per text
