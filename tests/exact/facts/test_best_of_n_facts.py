"""Fact A6: what the best of n samples is distributed as, when every draw of n is written down."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops.advantages import best_of_group
from rlhf_jax.ops.best_of_n import best_of_n_kl, best_of_n_kl_bound

from .tabular import other, same, tilted

REF = np.array([0.3, 0.15, 0.25, 0.1, 0.2])
SCORES = np.array([0.4, 1.0, -0.3, 1.0, 0.4])  # two pairs of equals
DISTINCT = np.array([0.4, 1.0, -0.3, 1.7, 0.1])


def drawn(scores, n, pick):
    """Probability of each text to be the one kept, by enumeration of all 5^n draws."""
    index = np.array(list(itertools.product(range(5), repeat=n)))
    chance = np.prod(REF[index], axis=1)
    kept = pick(scores[index])  # [draws, n], 1 at the one kept
    return np.bincount(index.ravel(), (chance[:, None] * kept).ravel(), minlength=5)


def ours(scores):
    return np.asarray(best_of_group(jnp.asarray(scores)))


def worst(scores):
    return ours(-scores)


def first(scores):
    return np.eye(scores.shape[1])[np.zeros(len(scores), int)]


def all_equals(scores):
    return (scores == scores.max(axis=1, keepdims=True)).astype(float)


def closed_form(scores, n):
    """`F(y)^n - F^-(y)^n` of the level of y, shared within the level as the reference does."""
    at_most = np.array([REF[scores <= s].sum() for s in scores])
    below = np.array([REF[scores < s].sum() for s in scores])
    level = at_most - below
    return REF / level * (at_most**n - below**n)


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("scores", [SCORES, DISTINCT], ids=["ties", "distinct"])
def test_the_text_that_is_kept_has_the_closed_form(scores, n, float64):
    wanted = closed_form(scores, n)
    same(wanted.sum(), 1.0)
    same(drawn(scores, n, ours), wanted)
    if n > 1:
        for broken in (worst, first):
            other(drawn(scores, n, broken), wanted, by=0.01)
        other(drawn(scores, n + 1, ours), wanted, by=0.01)
        ties = drawn(scores, n, all_equals)  # counts a draw of equals more than once
        other(ties.sum(), 1.0, by=0.01)
    if n > 1 and scores is SCORES:
        order = np.argsort(scores)  # equals put in an order of their own
        above = np.concatenate([[0.0], np.cumsum(REF[order])])
        strict = np.empty(5)
        strict[order] = np.diff(above**n)
        other(strict, wanted, by=0.01)


def kl(p, q):
    return float(np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / q), 0.0)))


def strict_pmf(ref, n):
    """Texts from worst to best, no equals."""
    return np.diff(np.concatenate([[0.0], np.cumsum(ref)]) ** n)


SIZES = (4, 16, 64, 256)
TABLE = {2: [0.459, 0.693, 0.693, 0.693], 64: [0.636, 1.833, 3.134, 4.068]}
BOUND = [0.636, 1.835, 3.175, 4.549]


@pytest.mark.parametrize("texts", TABLE)
def test_the_kl_is_below_the_bound_and_is_what_was_tabled(texts, float64):
    uniform = np.full(texts, 1 / texts)
    found = [kl(strict_pmf(uniform, n), uniform) for n in SIZES]
    bound = np.asarray(best_of_n_kl_bound(jnp.asarray(SIZES)))
    same(found, TABLE[texts], atol=6e-4)
    same(bound, BOUND, atol=6e-4)
    same(bound, [np.log(n) - (n - 1) / n for n in SIZES])
    assert np.all(found <= bound + 1e-12)
    other(found, bound, by=0.1)  # a bound, and not the KL
    with pytest.raises(AssertionError):  # what the bound would be with the wrong correction
        assert np.all(found <= bound - 1 / np.array(SIZES) + 1e-12)


RNG = np.random.default_rng(12)
# From flat to nearly sure; the 0 of a rounded probability is no reference.
REFERENCES = [0.999 * RNG.dirichlet(np.full(10, c)) + 1e-4 for c in (10.0, 1.0, 0.2)]
FINE = np.full(20000, 1 / 20000)


def mean_estimate(ref, n):
    """Of `best_of_n_kl` over the texts that are kept."""
    return float(strict_pmf(ref, n) @ np.asarray(best_of_n_kl(n, jnp.log(jnp.asarray(ref)))))


@pytest.mark.parametrize("n", [2, 8, 64])
def test_the_kl_saturates_and_its_estimate_is_closer_than_the_bound(n, float64):
    for ref in REFERENCES:
        found, bound = kl(strict_pmf(ref, n), ref), float(best_of_n_kl_bound(n))
        assert 0.0 <= found <= min(bound, -np.log(ref[-1])) + 1e-12
        assert abs(mean_estimate(ref, n) - found) <= bound - found + 1e-12
    sure = np.array([0.02, 0.96, 0.02])  # where the bound is far off
    found, bound = kl(strict_pmf(sure, n), sure), float(best_of_n_kl_bound(n))
    assert abs(mean_estimate(sure, n) - found) < 0.5 * (bound - found)
    with pytest.raises(AssertionError):
        assert abs(bound - found) < 0.5 * (bound - found)
    same(kl(strict_pmf(sure, 4096), sure), -np.log(0.02))  # nothing beyond the best text


def wins(n, ref):
    """Chance of the best of n against one sample of the reference, half a win for an equal."""
    return float(strict_pmf(ref, n) @ (np.cumsum(ref) - 0.5 * ref))


@pytest.mark.parametrize("n", [1, 2, 4, 64])
def test_it_beats_the_reference_at_most_n_times_in_n_plus_one(n, float64):
    for ref in (*REFERENCES, FINE):
        assert wins(n, ref) <= n / (n + 1) + 1e-12
    same(wins(n, FINE), n / (n + 1), atol=1e-6)  # reached where there are no equals
    with pytest.raises(AssertionError):  # so one sample more is too many
        assert wins(n + 1, FINE) <= n / (n + 1) + 1e-12


@pytest.mark.parametrize("n", [2, 4, 16])
def test_at_its_kl_no_best_of_n_scores_more_than_the_tilt(n, float64):
    kept = closed_form(DISTINCT, n)
    low, high = 0.0, 500.0
    for _ in range(200):
        eta = 0.5 * (low + high)
        below = kl(tilted(REF, DISTINCT, 1 / eta), REF) < kl(kept, REF)
        low, high = (eta, high) if below else (low, eta)
    best = tilted(REF, DISTINCT, 1 / high) @ DISTINCT
    assert kept @ DISTINCT <= best + 1e-12
    with pytest.raises(AssertionError):  # with the KL of fewer samples it would look better
        kept = closed_form(DISTINCT, 4 * n)
        assert kept @ DISTINCT <= best + 1e-12
