"""Fact A9: where direct preference losses end when every pair is seen as often as it comes.

Six texts, all ordered pairs, and labels that are probabilities: the losses are the population's.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.train.preference_loss import pair_losses

from .tabular import QUICK, other, same, softmax, tilted

RNG = np.random.default_rng(3)
REF = softmax(RNG.normal(size=6))
REWARD = RNG.normal(size=6)
BETA, TAU = 0.4, 0.3
FIRST, SECOND = (index.ravel() for index in np.indices((6, 6)))
DIFFERENT = FIRST != SECOND
BRADLEY_TERRY = 1 / (1 + np.exp(REWARD[None] - REWARD[:, None]))  # [i, j], i is preferred
UNIFORM = np.full((6, 6), 1 / 36)
SKEWED = RNG.dirichlet(np.full(36, 0.5)).reshape(6, 6)  # not symmetric, and no product
DRAWN = RNG.dirichlet(np.ones(6))
PRODUCT = DRAWN[:, None] * DRAWN[None]  # both texts of a pair drawn alike
NEVER_THE_LAST = np.where((np.indices((6, 6)) == 5).any(axis=0), 0.0, 1 / 25)
INTRANSITIVE = np.where(np.eye(6) > 0, 0.5, np.triu(RNG.random((6, 6)), 1))
INTRANSITIVE = np.where(np.tril(np.ones((6, 6)), -1) > 0, 1 - INTRANSITIVE.T, INTRANSITIVE)


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def derivatives(loss, logits, ref, chosen, beta, smoothing):
    """Loss, gradient and Hessian at a policy; `chosen` [6, 6] is how often i wins a pair with j."""

    def total(logits):
        log_probs = jax.nn.log_softmax(logits)
        args = (log_probs[FIRST], log_probs[SECOND], ref[FIRST], ref[SECOND])
        found = pair_losses(loss, *args, beta, smoothing)[0]
        return jnp.sum(jnp.where(DIFFERENT, chosen.ravel() * found, 0.0))

    return total(logits), jax.grad(total)(logits), jax.hessian(total)(logits)


def at(loss, policy, labels, sampler, beta=BETA, smoothing=0.0, ref=REF):
    """`derivatives` as numpy; a sampled pair (i, j) is labelled in either order."""
    chosen = labels * (sampler + sampler.T)
    args = (np.log(policy), np.log(ref), chosen, beta, smoothing)
    return [np.asarray(x) for x in derivatives(loss, *map(jnp.asarray, args))]


def gradient(*args, **kwargs):
    return at(*args, **kwargs)[1]


def solved(loss, labels, sampler, **kwargs):
    """Newton's method from the reference, each step halved until the loss falls."""
    logits = np.log(REF)
    for _ in range(60):
        value, slope, curvature = at(loss, softmax(logits), labels, sampler, **kwargs)
        step = np.linalg.pinv(curvature, rcond=1e-10) @ slope
        while at(loss, softmax(logits - step), labels, sampler, **kwargs)[0] > value + 1e-15:
            step = 0.5 * step
            if np.abs(step).max() < 1e-13:
                return softmax(logits)
        logits = logits - step
    return softmax(logits)


def free_directions(curvature):
    return int(np.sum(np.linalg.eigvalsh(curvature) < 1e-9))


@pytest.mark.parametrize("sampler", [UNIFORM, SKEWED, PRODUCT], ids=["uniform", "skewed", "drawn"])
def test_dpo_ends_at_the_tilt_whatever_pairs_it_is_shown(sampler, float64):
    optimum = tilted(REF, REWARD, BETA)
    _, slope, curvature = at("dpo", optimum, BRADLEY_TERRY, sampler)
    same(slope, 0.0)
    assert free_directions(curvature) == 1  # all logits alike: there is no second optimum
    same(solved("dpo", BRADLEY_TERRY, sampler), optimum, atol=1e-8)
    for broken in (tilted(REF, REWARD, 2 * BETA), tilted(REF, -REWARD, BETA), REF):
        other(gradient("dpo", broken, BRADLEY_TERRY, sampler), 0.0, by=0.01)
    same_sides = softmax(REWARD / BETA)  # the reference forgotten
    other(gradient("dpo", same_sides, BRADLEY_TERRY, sampler), 0.0)
    other(gradient("dpo", optimum, BRADLEY_TERRY.T, sampler), 0.0, by=0.01)  # sides swapped
    other(gradient("dpo", optimum, INTRANSITIVE, sampler), 0.0, by=0.01)  # nobody's reward


def test_a_text_that_is_never_shown_is_not_settled(float64):
    optimum = tilted(REF, REWARD, BETA)
    _, slope, curvature = at("dpo", optimum, BRADLEY_TERRY, NEVER_THE_LAST)
    same(slope, 0.0)
    assert free_directions(curvature) == 2  # a policy with more or less of it is as good
    moved = softmax(np.log(optimum) + np.eye(6)[5])
    same(gradient("dpo", moved, BRADLEY_TERRY, NEVER_THE_LAST), 0.0)
    other(gradient("dpo", moved, BRADLEY_TERRY, UNIFORM), 0.0)


def test_flipped_labels_are_undone_by_robust_dpo_and_not_by_smoothing(float64):
    optimum, rate = tilted(REF, REWARD, BETA), 0.2
    flipped = (1 - rate) * BRADLEY_TERRY + rate * BRADLEY_TERRY.T
    same(gradient("robust", optimum, flipped, SKEWED, smoothing=rate), 0.0)
    for loss, smoothing in (("dpo", 0.0), ("dpo", rate), ("robust", 0.1)):
        other(gradient(loss, optimum, flipped, SKEWED, smoothing=smoothing), 0.0)


@pytest.mark.parametrize("labels", [BRADLEY_TERRY, INTRANSITIVE], ids=["rewards", "cycles"])
@pytest.mark.parametrize("sampler, opponent", [(UNIFORM, np.full(6, 1 / 6)), (PRODUCT, DRAWN)])
def test_ipo_ends_where_winning_is_tilted_to(labels, sampler, opponent, float64):
    """`ref exp(p(y beats an opponent) / tau)`, for any preferences, with or without a reward."""
    wins = np.where(np.eye(6) > 0, 0.5, labels) @ opponent
    optimum = tilted(REF, wins, TAU)
    same(gradient("ipo", optimum, labels, sampler, beta=TAU), 0.0)
    same(solved("ipo", labels, sampler, beta=TAU), optimum)
    other(gradient("ipo", tilted(REF, wins, 2 * TAU), labels, sampler, beta=TAU), 0.0)
    other(gradient("ipo", optimum, labels, sampler, beta=2 * TAU), 0.0)
    other(gradient("ipo", optimum, labels, SKEWED, beta=TAU), 0.0)  # no one opponent
    other(gradient("dpo", optimum, labels, sampler, beta=TAU), 0.0)


ORDER = np.array([2.0, 1.0, 0.0, 0.0, 0.0, 0.0])
THREE = np.where((np.indices((6, 6)) < 3).all(axis=0), 1 / 9, 0.0)  # only the first three are shown
SURE = np.triu(np.ones((6, 6)), 1)  # the earlier always wins


def margin_after(loss, steps, beta):
    """Largest gap of log-ratios after gradient descent from the reference on three sure texts."""
    logits, gaps = np.log(REF), []
    for _ in range(steps):
        logits = logits - gradient(loss, softmax(logits), SURE, THREE, beta=beta)
        ratios = (logits - np.log(REF))[:3]
        gaps.append(ratios[0] - ratios[2])
    return np.array(gaps)


@pytest.mark.parametrize("beta", [0.1, 1.0, 5.0])
def test_on_sure_labels_dpo_runs_away_whatever_beta_is(beta, float64):
    along = lambda scale: softmax(np.log(REF) + scale * ORDER)
    values = [float(at("dpo", along(s), SURE, THREE, beta)[0]) for s in np.arange(8) * 3 / beta]
    assert np.all(np.diff(values) < 0) and values[-1] > 0  # falls for ever, to a 0 never reached
    same(float(at("dpo", along(22 / beta), SURE, THREE, beta)[0]), 0.0)
    far = np.array([1.0 if i == 0 else np.exp(-700.0) for i in range(6)])
    kl = np.sum(far * np.log(far / REF))
    same(kl, -np.log(REF[0]))  # all the KL there is, for any beta
    values = [float(at("ipo", along(s), SURE, THREE, beta)[0]) for s in np.arange(8) * 3 / beta]
    with pytest.raises(AssertionError):  # the same assertion on IPO
        assert np.all(np.diff(values) < 0)


def test_on_sure_labels_descent_keeps_running_with_dpo_and_stops_with_ipo(float64):
    gaps = margin_after("dpo", 2000, 1.0)
    assert np.all(np.diff(gaps) > 0) and gaps[1999] - gaps[999] > 0.3  # as log(steps) does
    gaps = margin_after("ipo", 400, 1.0)
    with pytest.raises(AssertionError):
        assert gaps[399] - gaps[199] > 0.3
    first = REF[:3] / REF[:3].sum()
    wins = np.array([5, 3, 1]) / 6  # against one of the three, itself included
    finite = tilted(first, wins, 1.0)
    same(gaps[-1], np.log(finite[0] / first[0]) - np.log(finite[2] / first[2]))
