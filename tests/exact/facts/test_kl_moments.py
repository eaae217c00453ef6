"""Fact A7: mean and spread of the three KL estimators, in closed form and by enumeration.

The table is that of Schulman 2020, joschu.net/blog/kl-approx.html: policy N(0, 1), reference
N(mu, 1). Expectations are a Gauss-Hermite quadrature, exact for what is integrated here.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops.kl import kl_full, kl_k1, kl_k2, kl_k3

from .tabular import other, same, softmax

NODES, WEIGHTS = np.polynomial.hermite_e.hermegauss(80)
WEIGHTS = WEIGHTS / WEIGHTS.sum()
# std of k1, bias and std of k2, std of k3, all over the true KL
PRINTED = {0.1: (20.0, 0.0025, 1.418, 1.417), 1.0: (2.0, 0.25, 1.732, 1.695)}


def moments(estimator, mu):
    """Bias and standard deviation of an estimator, relative to the true KL `mu^2 / 2`."""
    args = jnp.asarray(-0.5 * NODES**2), jnp.asarray(-0.5 * (NODES - mu) ** 2)
    found = np.asarray(estimator(*args))
    mean = WEIGHTS @ found
    return np.array([mean, np.sqrt(WEIGHTS @ (found - mean) ** 2)]) / (mu**2 / 2) - [1.0, 0.0]


@pytest.mark.parametrize("mu", PRINTED)
def test_the_table_of_two_gaussians(mu, float64):
    k2_std = np.sqrt(2 * mu**4 + mu**6) / mu**2
    k3_std = 2 * np.sqrt(np.exp(mu**2) - 1 - mu**2) / mu**2
    exact = (2 / mu, mu**2 / 4, k2_std, k3_std)
    k1, k2, k3 = (moments(k, mu) for k in (kl_k1, kl_k2, kl_k3))
    same([k1[0], k3[0]], 0.0)  # unbiased
    same([k1[1], k2[0], k2[1], k3[1]], exact, atol=1e-8)
    same(exact, PRINTED[mu], atol=6e-4)
    other(k2[0], 0.0)
    swapped = moments(lambda log_probs, ref: kl_k1(ref, log_probs), mu)
    other(swapped[0], 0.0, by=1.0)
    turned = moments(lambda log_probs, ref: kl_k3(ref, log_probs), mu)  # d with the other sign
    other([turned[0], turned[1] - k3_std], [0.0, 0.0])
    halved = moments(lambda log_probs, ref: 2 * kl_k2(log_probs, ref), mu)
    other(halved[0], exact[1])


@pytest.mark.parametrize("seed", range(4))
def test_any_two_policies_by_enumeration(seed, float64):
    rows = np.random.default_rng(seed).normal(size=(2, 7))
    p, q = softmax(rows)
    args = jnp.log(jnp.asarray(p)), jnp.log(jnp.asarray(q))
    log_ratio = np.log(p / q)
    true = p @ log_ratio
    estimates = [np.asarray(k(*args)) for k in (kl_k1, kl_k2, kl_k3)]
    same(estimates, [log_ratio, log_ratio**2 / 2, q / p - 1 + log_ratio])
    means = [p @ estimate for estimate in estimates]
    same([means[0], means[2]], true)
    other(means[1], true, by=1e-4)  # k2 is not, if by little
    # k3 is k1 with a control variate of mean 0, so its variance is that of k1 and two terms more.
    variate = q / p - 1
    same(p @ variate, 0.0)
    var = lambda x: p @ (x - p @ x) ** 2
    cov = p @ (variate * (log_ratio - true))
    same(var(estimates[2]), var(log_ratio) + var(variate) + 2 * cov)
    other(var(estimates[2]), var(log_ratio) + var(variate) - 2 * cov)
    same(float(kl_full(jnp.asarray(rows[0]), jnp.asarray(rows[1]))), true)
    other(float(kl_full(jnp.asarray(rows[1]), jnp.asarray(rows[0]))), true)


@pytest.mark.parametrize("size", [1e-2, 1e-3])
def test_close_to_the_reference_k2_and_k3_agree_with_the_kl_to_third_order(size, float64):
    """Halving the step divides the bias of k2 by eight, and the KL itself by four."""
    logits, step = np.random.default_rng(5).normal(size=(2, 7))

    def both(scale):
        p, q = softmax(logits + scale * step), softmax(logits)
        true = p @ np.log(p / q)
        k2 = p @ np.asarray(kl_k2(jnp.log(jnp.asarray(p)), jnp.log(jnp.asarray(q))))
        return true, abs(k2 - true)

    (true, bias), (half, half_bias) = both(size), both(size / 2)
    same(true / half, 4.0, atol=10 * size)
    same(bias / half_bias, 8.0, atol=60 * size)
    other(bias / half_bias, 4.0, by=1.0)
