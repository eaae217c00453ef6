"""Facts A1 to A5 and A17: what a reward less a KL is, whichever policy one stands at.

The optimum is the tilt of the reference, and everything short of it is a KL to it. On the left of
each identity stands what our losses, KLs and entropies say; on the right plain sums.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops.distributions import entropy
from rlhf_jax.ops.kl import kl_full, kl_k1, kl_k2, kl_k3
from rlhf_jax.ops.masked import masked_mean, masked_sum

from .tabular import (
    bandit,
    expected,
    other,
    probabilities,
    same,
    score_functions,
    settings,
    softmax,
    table_of,
    tilted,
    token_log_probs,
    tree,
)

BETA = 0.6
RNG = np.random.default_rng(9)
SPACE = tree(3, 3, eos=2)
ARMS = bandit(6)
REWARD, GAIN = RNG.normal(size=15), RNG.normal(size=6)
REF, ROW = RNG.normal(size=(13, 3)), RNG.normal(size=6)
POLICIES = RNG.normal(size=(4, 13, 3))
Q = probabilities(SPACE, REF)
STAR = tilted(Q, REWARD, BETA)
BEST = BETA * np.log(Q @ np.exp(REWARD / BETA))  # beta log Z


def kl(p, q):
    return float(p @ np.log(p / q))


def our_objective(table, coef=BETA):
    """J and its gradient from the training loss: at ratio 1 a mean per text has the value -J."""
    config = settings(kl_placement="reward", aggregation="sequence_mean", surrogate="none")
    value, _, _ = expected(config, SPACE, REWARD, table, REF, coef=coef)
    config = settings(kl_placement="reward", aggregation="sequence_sum", surrogate="none")
    _, gradient, _ = expected(config, SPACE, REWARD, table, REF, coef=coef)
    return -value, -gradient


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_missing_to_the_best_is_beta_times_the_kl_to_the_tilt(policy, float64):
    """A1, A2 and, as maximum-likelihood with a prior, A17; of the value and of its gradient."""
    found, slope = our_objective(policy)
    p = probabilities(SPACE, policy)
    same(BEST - found, BETA * kl(p, STAR))
    other(BEST - found, BETA * kl(STAR, p))  # the other direction
    other(BEST - our_objective(policy, 2 * BETA)[0], BETA * kl(p, STAR))
    toward = (p * np.log(p / STAR)) @ score_functions(SPACE, policy)
    same(slope, -BETA * toward.reshape(13, 3))
    other(slope, BETA * toward.reshape(13, 3))


def test_the_tilt_lacks_nothing(float64):
    same(our_objective(table_of(SPACE, STAR))[0], BEST)
    other(our_objective(table_of(SPACE, tilted(Q, REWARD, 2 * BETA)))[0], BEST)
    other(our_objective(table_of(SPACE, tilted(Q, -REWARD, BETA)))[0], BEST)


def test_the_objective_is_a_variational_bound(float64):
    """A17: `J / beta = E log(ref e^(r / beta)) + H`, the evidence less a KL."""
    table = POLICIES[0]
    p = probabilities(SPACE, table)
    per_token = np.asarray(entropy(jnp.asarray(table)))[SPACE.nodes]
    of_texts = lambda mask: (
        p @ np.asarray(masked_sum(jnp.asarray(per_token), jnp.asarray(mask), axis=1))
    )
    bound = p @ (np.log(Q) + REWARD / BETA) + of_texts(SPACE.mask)
    same(bound, our_objective(table)[0] / BETA)
    same(bound, np.log(Q @ np.exp(REWARD / BETA)) - kl(p, STAR))
    everything = p @ (np.log(Q) + REWARD / BETA) + of_texts(np.ones_like(SPACE.mask))
    other(everything, bound)  # entropy of the padding


def without_last(mask):
    return mask & np.pad(mask[:, 1:], [(0, 0), (0, 1)])


def one_further(mask):
    return np.pad(mask[:, :-1], [(0, 0), (1, 0)], constant_values=True)


def test_the_kl_of_texts_is_the_sum_of_their_tokens(float64):
    """A3: drawn or exact, token by token; what stands on padding must not be seen."""
    policy, junk = POLICIES[1], np.where(SPACE.mask, 0.0, 3.0)
    p = probabilities(SPACE, policy)
    tables = ((policy, 1), (REF, -1))
    logs = [jnp.asarray(token_log_probs(SPACE, table) + s * junk) for table, s in tables]
    exact = kl_full(jnp.asarray(policy), jnp.asarray(REF))[SPACE.nodes]
    exact = jnp.where(jnp.asarray(SPACE.mask), exact, 3.0)

    def over(x, mask=SPACE.mask, reduce=masked_sum):
        return p @ np.asarray(reduce(x, jnp.asarray(mask), axis=1))

    for found in (kl_k1(*logs), exact):
        same(over(found), kl(p, Q))
        for broken in (without_last(SPACE.mask), one_further(SPACE.mask)):
            other(over(found, broken), kl(p, Q))
        other(over(found, reduce=masked_mean), kl(p, Q), by=0.01)  # per token
    same(over(kl_k3(*logs)), kl(p, Q))  # unbiased for each token, so for the sum
    other(over(kl_k2(*logs)), kl(p, Q))
    other(over(kl_full(jnp.asarray(REF), jnp.asarray(policy))[SPACE.nodes]), kl(p, Q))


def test_the_tilt_token_by_token_is_soft_dynamic_programming(float64):
    """A3: `pi*(a | s) = ref e^((V(sa) - V(s)) / beta)`, with `V = beta log E[e^(r / beta) | s]`."""

    def soft_value(prefix, t):
        below = (SPACE.tokens[:, :t] == prefix).all(axis=1) & SPACE.mask[:, :t].all(axis=1)
        return BETA * np.log(Q[below] @ np.exp(REWARD[below] / BETA) / Q[below].sum())

    table, ref = softmax(table_of(SPACE, STAR)), softmax(REF)
    for i, t in zip(*np.nonzero(SPACE.mask)):
        node, a, text = SPACE.nodes[i, t], SPACE.tokens[i, t], SPACE.tokens[i]
        gain = soft_value(text[: t + 1], t + 1) - soft_value(text[:t], t)
        same(table[node, a], ref[node, a] * np.exp(gain / BETA))
        if t < 2 and a != 2:
            other(table[node, a], ref[node, a] * np.exp(2 * gain / BETA), by=1e-4)


ROW_PROBS = softmax(ROW)


def on_the_curve(eta):
    """Mean reward, its variance and log Z of `ref e^(eta r)`, and its KL as a sum over the arms."""
    p = tilted(ROW_PROBS, GAIN, 1 / eta) if eta else ROW_PROBS
    mean = p @ GAIN
    return mean, p @ (GAIN - mean) ** 2, np.log(ROW_PROBS @ np.exp(eta * GAIN)), kl(p, ROW_PROBS)


def our_kl(p, q):
    return float(kl_full(jnp.asarray(np.log(p)), jnp.asarray(np.log(q))))


def test_derivatives_of_log_z_are_the_mean_and_the_variance(float64):
    """A4, by the central differences of a step whose error is far below the tolerance."""
    step, eta = 1e-3, 0.8
    log_z = [on_the_curve(eta + k * step)[2] for k in (-2, -1, 0, 1, 2)]
    first = (log_z[0] - 8 * log_z[1] + 8 * log_z[3] - log_z[4]) / (12 * step)
    second = (-log_z[0] + 16 * log_z[1] - 30 * log_z[2] + 16 * log_z[3] - log_z[4]) / (12 * step**2)
    mean, variance, here, found = on_the_curve(eta)
    same(mean, first)
    same(variance, second, atol=1e-7)
    p = tilted(ROW_PROBS, GAIN, 1 / eta)
    for measured in (found, our_kl(p, ROW_PROBS)):
        same(measured, eta * mean - here)
        other(measured, eta * mean + here)
    other(our_kl(ROW_PROBS, p), eta * mean - here)  # the other direction


def test_near_the_reference_the_gain_is_the_root_of_twice_the_kl(float64):
    """A4: `dr = sqrt(2) sigma sqrt(KL)`; the two sides of the reference cancel the next order."""
    start, variance, _, _ = on_the_curve(0.0)
    slopes = [
        (mean - start) / np.sqrt(found) * np.sign(eta)
        for eta in (1e-3, -1e-3)
        for mean, _, _, found in [on_the_curve(eta)]
    ]
    same(np.mean(slopes), np.sqrt(2 * variance), atol=1e-6)
    other(np.mean(slopes), np.sqrt(variance), by=0.1)


def highest(found_kl):
    """A5: the reward of the tilt that has this KL, by bisection."""
    low, high = 0.0, 500.0
    for _ in range(200):
        eta = 0.5 * (low + high)
        low, high = (eta, high) if on_the_curve(eta)[3] < found_kl else (low, eta)
    return on_the_curve(eta)[0]


def above(measure):
    """By how much the best of 40 policies is above the curve when its KL is what `measure` says."""
    gaps, rng = [], np.random.default_rng(10)
    for spread in np.geomspace(0.05, 1.0, 40):
        p = softmax(ROW + 0.5 * spread * rng.normal(size=6) + spread * GAIN)
        gaps.append(p @ GAIN - highest(measure(p, ROW_PROBS)))
    return max(gaps)


def test_no_policy_is_above_the_curve_of_the_tilts(float64):
    assert above(our_kl) <= 1e-9
    for broken in (lambda p, q: 0.5 * our_kl(p, q), lambda p, q: our_kl(q, p)):
        with pytest.raises(AssertionError):  # a KL that is measured too small
            assert above(broken) <= 1e-9
    same(highest(on_the_curve(1.3)[3]), on_the_curve(1.3)[0])  # and the tilts are on it
