"""KL estimators: moments by enumeration and in closed form, gradients as losses; controllers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops.kl import (
    kl_full,
    kl_k1,
    kl_k2,
    kl_k3,
    schulman_controller,
    ziegler_controller,
)

P, Q = np.array([0.7, 0.2, 0.1]), np.array([0.1, 0.3, 0.6])
KL = float(np.sum(P * np.log(P / Q)))
FORBIDDEN = -jnp.inf


def test_by_hand():
    args = jnp.array([np.log(0.5)]), jnp.array([np.log(0.25)])  # d = log ref - log pi = -log 2
    np.testing.assert_allclose(kl_k1(*args), [np.log(2)], rtol=1e-6)
    assert float(kl_k1(*args)[0]) > 0  # the other sign is KL(ref || policy)'s integrand
    np.testing.assert_allclose(kl_k2(*args), [np.log(2) ** 2 / 2], rtol=1e-6)
    np.testing.assert_allclose(kl_k3(*args), [np.log(2) - 0.5], rtol=1e-6)
    assert abs(float(kl_k3(*args)[0]) - (1 - np.log(2))) > 0.1  # k3 with its sign turned round


def test_k1_and_k3_are_unbiased_and_k2_is_not(float64):
    log_p, log_q = jnp.log(jnp.array(P)), jnp.log(jnp.array(Q))
    np.testing.assert_allclose(P @ kl_k1(log_p, log_q), KL, rtol=1e-12)
    np.testing.assert_allclose(P @ kl_k3(log_p, log_q), KL, rtol=1e-12)
    np.testing.assert_allclose(kl_full(log_p + 3.0, log_q - 2.0), KL, rtol=1e-12)
    assert abs(P @ kl_k2(log_p, log_q) - KL) > 0.05
    reverse = np.sum(Q * np.log(Q / P))
    assert abs(kl_full(log_p, log_q) - reverse) > 0.05


@pytest.mark.parametrize("mu, k2_bias, k2_std", [(0.1, 0.0025, 1.418), (1.0, 0.25, 1.732)])
def test_moments_of_two_gaussians(mu, k2_bias, k2_std, float64):
    """Schulman's table, in closed form: policy N(0, 1), reference N(mu, 1), KL = mu^2 / 2."""
    x = np.linspace(-12, 12, 4001)
    weights = np.exp(-(x**2) / 2) / np.sum(np.exp(-(x**2) / 2))
    args = jnp.array(-(x**2) / 2), jnp.array(-((x - mu) ** 2) / 2)
    true = mu**2 / 2

    def moments(estimator):
        k = np.asarray(estimator(*args))
        mean = weights @ k
        return mean / true - 1, np.sqrt(weights @ (k - mean) ** 2) / true

    np.testing.assert_allclose(moments(kl_k1), (0, 2 / mu), atol=1e-6)
    np.testing.assert_allclose(moments(kl_k2), (k2_bias, k2_std), atol=5e-4)
    k3_std = 2 * np.sqrt(np.exp(mu**2) - 1 - mu**2) / mu**2
    np.testing.assert_allclose(moments(kl_k3), (0, k3_std), atol=1e-6)


def test_gradients_of_the_estimators_as_losses(float64):
    """On policy, k2's expected gradient is the KL's, k1's vanishes, k3's is KL(ref || policy)'s."""
    logits, log_q = jnp.array([0.4, -0.3, 0.1]), jnp.log(jnp.array(Q))

    def expected(estimator):
        def loss(x):
            probs = jax.lax.stop_gradient(jax.nn.softmax(x))
            return jnp.sum(probs * estimator(jax.nn.log_softmax(x), log_q))

        return jax.grad(loss)(logits)

    exact = jax.grad(lambda x: kl_full(x, log_q))(logits)
    forward = jax.grad(lambda x: kl_full(log_q, x))(logits)
    np.testing.assert_allclose(expected(kl_k1), 0, atol=1e-12)
    np.testing.assert_allclose(expected(kl_k2), exact, rtol=1e-10)
    np.testing.assert_allclose(expected(kl_k3), forward, rtol=1e-10)
    assert np.max(np.abs(expected(kl_k3) - exact)) > 0.05


def test_k2_and_k3_are_never_negative():
    d = jnp.array(np.concatenate([s * np.logspace(-9, 1.6, 4001) for s in (1, -1)]), jnp.float32)
    for estimator in (kl_k2, kl_k3):
        assert float(jnp.min(estimator(d, jnp.zeros_like(d)))) >= 0


@pytest.mark.parametrize("estimator", [kl_k1, kl_k2, kl_k3])
def test_finite_gradients_at_extremes(estimator):
    for extremes in ([50.0, -50.0], [200.0, -200.0]):
        gradient = jax.grad(lambda x: jnp.sum(estimator(x, jnp.zeros(2))))(jnp.array(extremes))
        assert np.all(np.isfinite(gradient))
    assert np.isnan(estimator(jnp.array(jnp.nan), jnp.array(0.0)))


def test_kl_full_with_forbidden_tokens():
    p = jnp.array([1.0, 0.5, FORBIDDEN, FORBIDDEN, -300.0])
    q = jnp.array([0.0, 0.7, 2.0, FORBIDDEN, FORBIDDEN])
    assert np.isfinite(kl_full(p, q))
    assert np.all(np.isfinite(jnp.stack(jax.grad(kl_full, argnums=(0, 1))(p, q))))
    assert kl_full(p, p) == 0
    both = jnp.array([0.0, 0.0])
    assert kl_full(both, jnp.array([0.0, FORBIDDEN])) == jnp.inf  # honest, not hidden


def test_ziegler_controller_by_hand():
    hyper = dict(target=6.0, horizon=10000, num_episodes=512)
    up, down = 0.1 * (1 + 0.2 * 0.0512), 0.1 * (1 - 0.2 * 0.0512)
    np.testing.assert_allclose(ziegler_controller(0.1, 60.0, **hyper), up, rtol=1e-6)
    np.testing.assert_allclose(ziegler_controller(0.1, 0.0, **hyper), down, rtol=1e-6)
    np.testing.assert_allclose(ziegler_controller(0.1, 6.0, **hyper), 0.1, rtol=1e-6)
    within = ziegler_controller(0.1, 6.6, **hyper)  # error 0.1, inside the clip
    np.testing.assert_allclose(within, 0.1 * (1 + 0.1 * 0.0512), rtol=1e-6)
    unclipped = 0.1 * (1 + 9 * 0.0512)
    assert abs(float(ziegler_controller(0.1, 60.0, **hyper)) - unclipped) > 0.01


def test_ziegler_controller_settles_at_its_target():
    """KL falls as the coefficient grows; the loop must find the coefficient giving the target."""
    coef = jnp.array(0.5)
    for _ in range(300):
        coef = ziegler_controller(coef, 1.0 / coef, target=4.0, horizon=100, num_episodes=50)
    np.testing.assert_allclose(coef, 0.25, rtol=1e-4)


@pytest.mark.parametrize(
    "kl, target, coef",
    [(0.1, 0.1, 2.0), (14.9, 10, 2.0), (15.1, 10, 4.0), (6.7, 10, 2.0), (6.6, 10, 1.0)],
)
def test_schulman_controller_by_hand(kl, target, coef):
    assert float(schulman_controller(2.0, kl, target=target)) == coef


def test_controllers_under_jit_and_vmap():
    coefs, kls, targets = jnp.array([0.1, 0.2]), jnp.array([9.0, 1.0]), jnp.array([6.0, 3.0])

    def both(coef, kl, target):
        new = ziegler_controller(coef, kl, target=target, horizon=100.0, num_episodes=50)
        return new, schulman_controller(coef, kl, target=target)

    ziegler, schulman = jax.jit(jax.vmap(both))(coefs, kls, targets)
    np.testing.assert_allclose(ziegler, [0.11, 0.18], rtol=1e-6)
    np.testing.assert_allclose(schulman, [0.1, 0.1], rtol=1e-6)  # 9 = 1.5 * 6 is still inside
