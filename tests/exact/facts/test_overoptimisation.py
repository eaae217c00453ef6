"""Fact A18: noise alone does not make the truth fall.

Where proxy and truth are jointly Gaussian under the reference, the tilt by the proxy gains
`rho sigma sqrt(2 KL)` of the truth: always less than of the proxy, and never less for more KL. A
proxy that misses what the truth charges for is another matter: there the truth has a peak.
"""

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.config import RepetitionConfig
from rlhf_jax.exact.optimum import divergence, mean_reward, tilt
from rlhf_jax.tasks import make_task
from rlhf_jax.train.exactly import every_completion

RHO, SIGMA = 0.6, 1.7
POINTS = 256  # of each axis, so 65,536 outcomes
ETAS = np.linspace(0.05, 2.0, 40)  # the KL is eta^2 / 2: up to 2 nats


def gaussian_case(noise=lambda z: z):
    """Log-probabilities, proxy and truth [1, 65536]; `noise` of a normal number, in the proxy."""
    axis = np.linspace(-8, 8, POINTS)
    first, second = (x.ravel()[None] for x in np.meshgrid(axis, axis))
    ref = -0.5 * (first**2 + second**2)
    truth = SIGMA * first
    proxy = RHO * first + np.sqrt(1 - RHO**2) * noise(second)
    return jax.nn.log_softmax(jnp.asarray(ref)), jnp.asarray(proxy), jnp.asarray(truth)


def along_the_tilt(ref, proxy, truth, etas=ETAS):
    """KL and the gain of the truth at each inverse temperature of the tilt by the proxy."""

    def point(eta):
        policy = tilt(ref, eta * proxy, 1.0)
        gain = mean_reward(policy, truth) - mean_reward(ref, truth)
        return divergence(policy, ref), gain

    kl, gain = jax.jit(lambda x: jax.lax.map(point, x))(jnp.asarray(etas, ref.dtype))
    return np.asarray(kl), np.asarray(gain)


def test_gaussian_noise_costs_a_share_of_the_gain_and_leads_to_no_peak(float64):
    kl, gain = along_the_tilt(*gaussian_case())
    assert 1.9 < kl[-1] < 2.1
    np.testing.assert_allclose(gain, RHO * SIGMA * np.sqrt(2 * kl), rtol=0.02)
    assert np.all(np.diff(gain) > 0)


def test_other_noise_breaks_the_law(float64):
    heavy = lambda z: np.sign(z) * np.abs(z) ** 2 / np.sqrt(3)  # of variance 1, with longer tails
    kl, gain = along_the_tilt(*gaussian_case(heavy), etas=ETAS[:20])
    law = RHO * SIGMA * np.sqrt(2 * kl)
    assert gain[-1] < 0.9 * law[-1]


def test_a_proxy_that_misses_a_cost_leads_past_a_peak():
    task = make_task(RepetitionConfig(num_pairs=4096, num_texts=64))
    exact = task.exact
    everything = every_completion(exact)
    proxy = jax.jit(task.rewards["counts"])(everything.tokens(), everything.mask())
    proxy = proxy.reshape(exact.gold.shape)
    ref = jax.nn.log_softmax(jnp.asarray(exact.source), axis=1)
    kl, truth = along_the_tilt(ref, proxy, jnp.asarray(exact.gold), np.geomspace(0.1, 20, 40))
    top = int(truth.argmax())
    assert 0 < top < len(kl) - 1 and kl[-1] > kl[top] + 1
    assert truth[-1] < truth[top] - 0.1
