"""The DPO family: hand-worked values, optima on an enumerable problem, and extremes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.losses.dpo import dpo_loss, hinge_loss, ipo_loss, robust_dpo_loss

LOSSES = {
    "dpo": dpo_loss,
    "ipo": ipo_loss,
    "hinge": hinge_loss,
    "robust": functools.partial(robust_dpo_loss, label_smoothing=0.2),
}
# Log-ratios to the reference: +1 and -0.5, so h = 1.5.
PAIR = tuple(jnp.array([x]) for x in (-2.0, -4.5, -3.0, -4.0))


def test_dpo_by_hand():
    loss, chosen, rejected = dpo_loss(*PAIR, beta=2.0)
    np.testing.assert_allclose(loss, np.log(1 + np.exp([-3.0])), rtol=1e-5)
    assert (chosen.tolist(), rejected.tolist()) == ([2.0], [-1.0])
    assert abs(float(loss[0]) - np.log(1 + np.exp(-5.0))) > 0.04  # reference forgotten: h = 2.5
    smoothed, _, _ = dpo_loss(*PAIR, beta=2.0, label_smoothing=0.1)
    expected = 0.9 * np.log(1 + np.exp(-3.0)) + 0.1 * np.log(1 + np.exp(3.0))
    np.testing.assert_allclose(smoothed, [expected], rtol=1e-5)


def test_ipo_by_hand():
    loss, chosen, rejected = ipo_loss(*PAIR, beta=0.5)
    assert loss.tolist() == [0.25]  # (1.5 - 1)^2
    assert (chosen.tolist(), rejected.tolist()) == ([0.5], [-0.25])
    loss = ipo_loss(*PAIR, beta=0.125)[0].tolist()
    assert loss == [6.25]  # (1.5 - 4)^2
    assert loss != [42.25]  # 1 / beta in place of 1 / (2 beta)


def test_hinge_by_hand():
    loss, chosen, rejected = hinge_loss(*PAIR, beta=0.5)
    assert (loss.tolist(), chosen.tolist(), rejected.tolist()) == ([0.25], [0.5], [-0.25])
    assert hinge_loss(*PAIR, beta=2.0)[0].tolist() == [0.0]  # 1.5 nats is enough
    zeros = jnp.zeros(4)

    def total(x):
        return jnp.sum(hinge_loss(x, zeros, zeros, zeros, beta=0.5)[0])

    slopes = jax.grad(total)(jnp.array([-9.0, 1.9, 2.1, 9.0]))  # satisfied from 1 / beta on
    assert slopes.tolist() == [-0.5, -0.5, 0.0, 0.0]


def test_robust_by_hand():
    loss, chosen, rejected = robust_dpo_loss(*PAIR, beta=2.0, label_smoothing=0.1)
    right, wrong = np.log(1 + np.exp(-3.0)), np.log(1 + np.exp(3.0))
    np.testing.assert_allclose(loss, [(0.9 * right - 0.1 * wrong) / 0.8], rtol=1e-5)
    assert (chosen.tolist(), rejected.tolist()) == ([2.0], [-1.0])
    assert loss[0] < 0 < 0.9 * right + 0.1 * wrong  # smoothing has the other sign
    np.testing.assert_array_equal(robust_dpo_loss(*PAIR, beta=2.0)[0], dpo_loss(*PAIR, beta=2.0)[0])


@pytest.mark.parametrize("flips", [0.0, 0.1, 0.4])
def test_robust_is_unbiased_under_flipped_labels(flips, float64):
    """Averaged over the flips it is DPO on the true labels, in value and in gradient."""
    rng = np.random.default_rng(0)
    chosen, rejected, ref_chosen, ref_rejected = (jnp.array(-9 * rng.random(8)) for _ in range(4))

    def noisy(x, loss):
        kept = loss(x, rejected, ref_chosen, ref_rejected, beta=0.7, label_smoothing=flips)[0]
        flipped = loss(rejected, x, ref_rejected, ref_chosen, beta=0.7, label_smoothing=flips)[0]
        return jnp.sum((1 - flips) * kept + flips * flipped)

    def clean(x):
        return jnp.sum(dpo_loss(x, rejected, ref_chosen, ref_rejected, beta=0.7)[0])

    expected = jax.value_and_grad(clean)(chosen)
    for found, truth in zip(jax.value_and_grad(noisy)(chosen, robust_dpo_loss), expected):
        np.testing.assert_allclose(found, truth, rtol=1e-9)
    biased = jax.grad(noisy)(chosen, dpo_loss)  # conservative DPO only damps
    assert flips == 0 or np.max(np.abs(biased - expected[1])) > 0.03


@pytest.mark.parametrize("beta", [0.01, 0.1, 5.0])
def test_at_the_reference(beta):
    log_probs = jnp.array([-3.0, -7.0])
    loss, chosen, rejected = dpo_loss(*([log_probs] * 4), beta=beta, label_smoothing=0.1)
    np.testing.assert_allclose(loss, np.log(2), rtol=1e-6)
    assert chosen.tolist() == rejected.tolist() == [0.0, 0.0]
    np.testing.assert_allclose(ipo_loss(*([log_probs] * 4), beta=beta)[0], 0.25 / beta**2)
    assert hinge_loss(*([log_probs] * 4), beta=beta)[0].tolist() == [1.0, 1.0]
    robust = robust_dpo_loss(*([log_probs] * 4), beta=beta, label_smoothing=0.1)[0]
    np.testing.assert_allclose(robust, np.log(2), rtol=1e-6)


def population_gradient(name, beta, reward, log_pi):
    """Gradient at `log_pi` of the loss summed over all pairs, labelled by Bradley-Terry."""
    log_ref = jnp.log(jnp.array([0.5, 0.2, 0.2, 0.1]))

    def total(logits):
        log_probs = jax.nn.log_softmax(logits)
        pairs = jnp.array(list(itertools.permutations(range(4), 2))).T
        chosen, rejected = pairs[0], pairs[1]
        loss = LOSSES[name](
            log_probs[chosen], log_probs[rejected], log_ref[chosen], log_ref[rejected], beta=beta
        )[0]
        return jnp.sum(jax.nn.sigmoid(reward[chosen] - reward[rejected]) * loss)

    return jax.grad(total)(log_pi(log_ref))


def test_dpo_population_optimum_is_the_tilted_reference(float64):
    """pi* = ref exp(r / beta) / Z, and not ref exp(r beta)."""
    reward, beta = jnp.array([0.3, -1.0, 2.0, 0.5]), 0.4
    right = population_gradient("dpo", beta, reward, lambda ref: ref + reward / beta)
    wrong = population_gradient("dpo", beta, reward, lambda ref: ref + reward * beta)
    np.testing.assert_allclose(right, 0, atol=1e-12)
    assert np.max(np.abs(wrong)) > 0.05


def test_ipo_population_optimum_under_a_uniform_opponent(float64):
    """pi* = ref exp(p / tau) / Z where p(y) is the chance to beat a uniformly drawn text."""
    reward, tau = jnp.array([0.3, -1.0, 2.0, 0.5]), 0.4
    wins = jnp.mean(jax.nn.sigmoid(reward[:, None] - reward[None, :]), axis=1)
    right = population_gradient("ipo", tau, reward, lambda ref: ref + wins / tau)
    np.testing.assert_allclose(right, 0, atol=1e-12)
    wrong = population_gradient("ipo", tau, reward, lambda ref: ref + reward / tau)
    assert np.max(np.abs(wrong)) > 0.05


def test_ipo_optimum_of_a_sure_pair_is_finite(float64):
    """One pair, always labelled alike: the gap stops at 1 / (2 tau), DPO's never stops."""
    zero = jnp.array(0.0)

    def slope(name, gap):
        return jax.grad(lambda x: LOSSES[name](x, zero, zero, zero, beta=0.1)[0])(jnp.array(gap))

    np.testing.assert_allclose(slope("ipo", 5.0), 0, atol=1e-12)
    assert slope("ipo", 4.9) < 0 < slope("ipo", 5.1)
    assert slope("dpo", 100.0) < 0


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("gap", [50.0, -50.0, 1e4, -1e4])
def test_finite_at_extremes(name, gap):
    zero = jnp.array(0.0)
    loss, gradient = jax.value_and_grad(
        lambda x: LOSSES[name](x, zero, zero, zero, beta=1.0)[0],
    )(jnp.array(gap))
    assert np.isfinite(loss) and np.isfinite(gradient)
    assert np.isnan(LOSSES[name](jnp.array(jnp.nan), zero, zero, zero, beta=1.0)[0])


@pytest.mark.parametrize("name", LOSSES)
def test_traced_beta_under_jit_and_vmap(name):
    lanes = jax.jit(jax.vmap(lambda beta: LOSSES[name](*PAIR, beta=beta)))(jnp.array([0.1, 2.0]))
    for lane, beta in enumerate((0.1, 2.0)):
        for found, expected in zip(lanes, LOSSES[name](*PAIR, beta=beta)):
            np.testing.assert_allclose(found[lane], expected, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_shapes_are_checked(name):
    with pytest.raises(AssertionError):
        LOSSES[name](jnp.zeros(2), jnp.zeros(2), jnp.zeros(2), jnp.zeros(3), beta=0.1)
