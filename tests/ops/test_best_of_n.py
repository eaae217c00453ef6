"""KL of best-of-n against its exact value on finite spaces, where every text can be enumerated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops.best_of_n import best_of_n_kl, best_of_n_kl_bound

SIZES = (4, 16, 64, 256)
UNIFORM = {2: [0.459, 0.693, 0.693, 0.693], 64: [0.636, 1.833, 3.134, 4.068]}
BOUND = [0.636, 1.835, 3.175, 4.549]


def best_of_n(ref, n):
    """Probability that the best of n is each text; texts from worst to best, no ties."""
    below = np.concatenate([[0.0], np.cumsum(ref)])
    return np.diff(below**n)


def exact_kl(ref, n):
    pi = best_of_n(ref, n)
    return float(np.sum(np.where(pi > 0, pi * np.log(np.where(pi > 0, pi, 1) / ref), 0)))


def mean_estimate(ref, n):
    """What the estimator says on average over the texts best-of-n returns."""
    return float(best_of_n(ref, n) @ np.asarray(best_of_n_kl(n, jnp.log(jnp.array(ref)))))


def references(seed, size=12):
    """Flat to nearly one-hot."""
    rng = np.random.default_rng(seed)
    return [rng.dirichlet(np.full(size, concentration)) for concentration in (10.0, 1.0, 0.1)]


def test_bound_by_hand():
    np.testing.assert_allclose(best_of_n_kl_bound(jnp.array(SIZES)), BOUND, atol=6e-4)
    assert float(best_of_n_kl_bound(1)) == 0
    # Stiennon et al. 2020 print 1.2, 3.2, 3.9, 4.5 and 5.2.
    printed = best_of_n_kl_bound(jnp.array([8, 64, 128, 256, 512]))
    np.testing.assert_allclose(printed, [1.2, 3.2, 3.9, 4.5, 5.2], atol=0.06)


@pytest.mark.parametrize("size", UNIFORM)
def test_uniform_references(size, float64):
    ref = np.full(size, 1 / size)
    exact = [exact_kl(ref, n) for n in SIZES]
    np.testing.assert_allclose(exact, UNIFORM[size], atol=6e-4)
    assert np.all(np.array(exact) <= best_of_n_kl_bound(jnp.array(SIZES)))
    for n, kl in zip(SIZES, exact):
        bound = float(best_of_n_kl_bound(n))
        assert abs(mean_estimate(ref, n) - kl) <= abs(bound - kl) + 1e-12


def test_the_two_by_hand():
    """A fair coin, 4 draws: the tail never shows with chance 1/16."""
    rest = (np.log(4) + 3 * np.log(0.5) - 0.75) / 16
    expected = rest + 15 / 16 * np.log(15 / 16 / 0.5)
    np.testing.assert_allclose(best_of_n_kl(4, jnp.log(jnp.array(0.5))), expected, rtol=1e-5)
    assert abs(expected - float(best_of_n_kl_bound(4))) > 0.1  # the classical formula


@pytest.mark.parametrize("n", [1, 2, 7, 64])
@pytest.mark.parametrize("seed", range(3))
def test_bound_holds_and_kl_saturates(seed, n, float64):
    for ref in references(seed):
        kl = exact_kl(ref, n)
        assert -1e-12 <= kl <= float(best_of_n_kl_bound(n)) + 1e-12
        assert kl <= -np.log(ref[-1]) + 1e-12
    assert mean_estimate(ref, 1) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("place", [0, 6, 11])
@pytest.mark.parametrize("mass", [0.9, 0.99])
def test_estimator_is_closer_than_the_bound_where_entropy_is_low(mass, place, float64):
    """One text of twelve, the worst, a middling or the best one, has nearly all the mass."""
    ref = np.full(12, (1 - mass) / 11)
    ref[place] = mass
    gaps = []
    for n in (4, 16, 64):
        kl, bound = exact_kl(ref, n), float(best_of_n_kl_bound(n))
        assert abs(mean_estimate(ref, n) - kl) < 0.5 * (bound - kl)
        gaps.append(bound - kl)
    assert max(gaps) > 0.3  # the bound is no estimate here


@pytest.mark.parametrize("seed", range(3))
def test_estimator_is_never_further_than_the_bound(seed, float64):
    for ref in references(seed):
        for n in (2, 16, 64):
            kl = exact_kl(ref, n)
            assert abs(mean_estimate(ref, n) - kl) <= float(best_of_n_kl_bound(n)) - kl + 1e-9


def test_estimator_is_exact_for_the_best_of_a_continuum(float64):
    """The best text has mass e, all others none: then its formula is the KL itself."""
    e, n, grid = 0.3, 6, 400_000
    ref = np.concatenate([np.full(grid, (1 - e) / grid), [e]])
    np.testing.assert_allclose(best_of_n_kl(n, jnp.log(e)), exact_kl(ref, n), rtol=1e-4)


def test_limits_and_gradients_are_finite():
    log_probs = jnp.array([0.0, -1e-8, -1e-3, -1.0, -20.0, -80.0, -1e3, -1e6])
    for n in (1, 2, 1000):
        found = best_of_n_kl(n, log_probs)
        np.testing.assert_allclose(found[0], 0, atol=1e-6)
        np.testing.assert_allclose(found[-3:], best_of_n_kl_bound(n), rtol=1e-5, atol=1e-6)
        assert np.all(found >= -1e-6) and np.all(found <= best_of_n_kl_bound(n) + 1e-5)
        gradient = jax.grad(lambda x: jnp.sum(best_of_n_kl(n, x)))(log_probs)  # noqa: B023
        assert np.all(np.isfinite(gradient))
    assert np.isnan(best_of_n_kl(4, jnp.array(jnp.nan)))


def test_traced_n_under_jit_and_vmap():
    log_probs = jnp.log(jnp.array([0.5, 0.01]))
    lanes = jax.jit(jax.vmap(lambda n: best_of_n_kl(n, log_probs)))(jnp.array([2.0, 8.0]))
    for lane, n in enumerate((2, 8)):
        np.testing.assert_allclose(lanes[lane], best_of_n_kl(n, log_probs), rtol=1e-5)


def test_mistakes_are_refused():
    with pytest.raises(AssertionError):
        best_of_n_kl(jnp.array([2.0, 4.0]), jnp.zeros(2))
    with pytest.raises(AssertionError):
        best_of_n_kl(2, jnp.array([0, -1]))
