"""Action distributions against scipy and by sampling; running moments against the whole."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from rlhf_jax.ops.moments import Moments
from rlhf_jax.ops.policies import Categorical, Gaussian

MEAN, LOG_STD = jnp.array([0.5, -1.0]), jnp.array([0.3, -0.7])


def test_gaussian_matches_scipy():
    policy, x = Gaussian(MEAN, LOG_STD), jnp.array([0.1, 0.2])
    normal = stats.norm(MEAN, np.exp(LOG_STD))
    np.testing.assert_allclose(policy.log_prob(x), normal.logpdf(x).sum(), rtol=1e-5)
    np.testing.assert_allclose(policy.entropy(), normal.entropy().sum(), rtol=1e-5)


def test_kl_is_the_mean_log_ratio():
    one, two = Gaussian(MEAN, LOG_STD), Gaussian(MEAN + 0.4, LOG_STD - 0.2)
    broad = Gaussian(
        jnp.broadcast_to(one.mean, (200000, 2)), jnp.broadcast_to(LOG_STD, (200000, 2))
    )
    x = broad.sample(jax.random.key(0))
    sampled = jnp.mean(jax.vmap(one.log_prob)(x) - jax.vmap(two.log_prob)(x))
    np.testing.assert_allclose(one.kl(two), sampled, atol=0.01)
    assert abs(float(one.kl(one))) < 1e-6


def test_categorical_kl_and_samples():
    one, two = Categorical(jnp.array([0.0, 1.0])), Categorical(jnp.array([0.5, 0.5]))
    p = jax.nn.softmax(one.logits)
    np.testing.assert_allclose(one.kl(two), jnp.sum(p * jnp.log(p / 0.5)), rtol=1e-5)
    draws = Categorical(jnp.broadcast_to(one.logits, (20000, 2))).sample(jax.random.key(0))
    assert abs(jnp.mean(draws.astype(jnp.float32)) - p[1]) < 0.02


def test_moments_are_those_of_everything_seen():
    data = np.random.default_rng(0).normal(3.0, 2.0, (5, 40, 2)).astype(np.float32)
    moments = Moments.fresh((2,))
    for batch in data:
        moments = moments.seen(jnp.asarray(batch))
    whole = data.reshape(-1, 2)
    np.testing.assert_allclose(moments.mean, whole.mean(0), rtol=1e-3)
    np.testing.assert_allclose(moments.var, whole.var(0), rtol=1e-2)
