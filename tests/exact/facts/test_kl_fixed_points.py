"""Fact A8: which policy each placement of the KL is at rest at, on a bandit of five arms.

"At rest" is a gradient of exactly 0 of the training loss, averaged over all arms as often as the
policy draws them. The policies it must be 0 at are closed forms.
"""

import numpy as np
import pytest

from .tabular import bandit, expected, gradient_of, natural, other, same, settings, softmax, tilted

BETA = 0.5
SPACE = bandit(5)
REWARD = np.array([0.3, -0.4, 1.0, 0.1, 0.6])
REF = np.log(np.array([[0.3, 0.25, 0.05, 0.2, 0.2]]))
ELSEWHERE = np.random.default_rng(0).normal(size=(4, 1, 5))
PLAIN = settings()


def in_reward(estimator):
    return settings(kl_placement="reward", kl_estimator=estimator)


def in_loss(estimator, ratio=False, **changes):
    placed = {"kl_placement": "loss", "kl_estimator": estimator, "kl_importance": ratio}
    return settings(**placed, **changes)


def gradient(config, table, coef=BETA, **kwargs):
    return gradient_of(config, SPACE, REWARD, table, REF, coef=coef, **kwargs)


def row(probs):
    return np.log(np.atleast_2d(probs))


def tilt(beta=BETA):
    return row(tilted(softmax(REF[0]), REWARD, beta))


def k3_optimum(beta=BETA):
    """`beta ref / (lambda - r)` with the lambda, above every reward, that makes it sum to 1."""
    ref, low, high = softmax(REF[0]), REWARD.max(), REWARD.max() + 10.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        total = np.sum(beta * ref / (middle - REWARD))
        low, high = (middle, high) if total > 1.0 else (low, middle)
    return row(beta * ref / (high - REWARD))


def kl_gradient(table):
    """Of KL(policy || reference) in the logits."""
    p = softmax(table[0])
    d = np.log(p) - np.log(softmax(REF[0]))
    return (p * (d - p @ d))[None]


def reward_gradient(table):
    """Of the mean reward in the logits."""
    p = softmax(table[0])
    return (p * (REWARD - p @ REWARD))[None]


TO_THE_TILT = {
    "k1 in the reward": in_reward("k1"),
    "k2 in the loss": in_loss("k2"),
    "full in the loss": in_loss("full"),
    "k1 in the loss x ratio": in_loss("k1", True),
    "k3 in the loss x ratio": in_loss("k3", True),
    "full in the loss x ratio": in_loss("full", True),
}
ELSEWHERE_THAN_THE_TILT = {
    "k2 in the reward": in_reward("k2"),
    "k3 in the reward": in_reward("k3"),
    "full in the reward": in_reward("full"),  # one number for all arms: no penalty
    "k1 in the loss": in_loss("k1"),
    "k3 in the loss": in_loss("k3"),
    "k2 in the loss x ratio": in_loss("k2", True),  # already right: the ratio breaks it
}


@pytest.mark.parametrize("name", TO_THE_TILT)
def test_only_at_the_tilt_is_it_at_rest(name, float64):
    config = TO_THE_TILT[name]
    same(gradient(config, tilt()), 0.0)
    other(gradient(config, REF), 0.0, by=0.01)
    other(gradient(config, tilt(2 * BETA)), 0.0, by=0.01)
    for table in ELSEWHERE:  # and it is the gradient of -J everywhere, not only at rest
        wanted = BETA * kl_gradient(table) - reward_gradient(table)
        same(gradient(config, table), wanted)
        other(gradient(config, table), -wanted)
        other(gradient(config, table), wanted - BETA * kl_gradient(table))
        assert np.abs(wanted).max() > 0.05


@pytest.mark.parametrize("name", ELSEWHERE_THAN_THE_TILT)
def test_the_same_assertion_refuses_the_other_placements_at_the_tilt(name, float64):
    other(gradient(ELSEWHERE_THAN_THE_TILT[name], tilt()), 0.0, by=0.01)


def test_k1_in_the_reward_and_k2_in_the_loss_are_one_gradient(float64):
    for table in (REF, tilt(), *ELSEWHERE):
        same(gradient(in_loss("k2"), table), gradient(in_reward("k1"), table))
    for table in ELSEWHERE:
        other(gradient(in_loss("k3"), table), gradient(in_reward("k1"), table))


def test_k3_in_the_loss_is_at_rest_at_its_forward_kl_optimum(float64):
    rest, wrong = k3_optimum(), k3_optimum(2 * BETA)
    same(softmax(rest).sum(), 1.0)
    same(gradient(in_loss("k3"), rest), 0.0)
    other(gradient(in_loss("k3"), wrong), 0.0, by=0.01)
    other(gradient(in_loss("k2"), rest), 0.0, by=0.01)
    p, q = softmax(rest[0]), softmax(tilt()[0])
    assert np.sum(p * np.log(p / q)) > 0.01  # nats from the tilt: another policy altogether
    for table in ELSEWHERE:  # its gradient is that of KL(reference || policy)
        forward = softmax(table) - softmax(REF)
        same(gradient(in_loss("k3"), table), BETA * forward - reward_gradient(table))


def test_k1_in_the_loss_is_no_penalty_at_all(float64):
    for table in (tilt(), *ELSEWHERE):
        same(gradient(in_loss("k1"), table), gradient(PLAIN, table))
        same(gradient(in_loss("k1"), table, coef=50.0), gradient(PLAIN, table))
        other(gradient(in_loss("k2"), table), gradient(PLAIN, table))
    # Its loss says otherwise: the KL is in the value, and only the gradient is missing.
    for table in ELSEWHERE:
        p = softmax(table[0])
        kl = float(np.sum(p * np.log(p / softmax(REF[0]))))
        args = (SPACE, REWARD, table, REF)
        with_kl, without = (expected(c, *args, coef=BETA)[0] for c in (in_loss("k1"), PLAIN))
        same(with_kl - without, BETA * kl)


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_the_ratio_makes_an_old_sample_tell_the_kl_of_the_new_policy(estimator, float64):
    table, sampler = ELSEWHERE[0], ELSEWHERE[0] + 0.3 * ELSEWHERE[1]
    silent = np.zeros(5)
    away = {"coef": BETA, "sampler": sampler}
    with_ratio = in_loss(estimator, True, surrogate="none")
    args = (SPACE, silent, table, REF)
    same(gradient_of(with_ratio, *args, **away), BETA * kl_gradient(table))
    for plain in (estimator, "k2"):
        config = in_loss(plain, surrogate="none")
        other(gradient_of(config, *args, **away), BETA * kl_gradient(table))


def trained(config, start, steps=60, size=1.0):
    """Natural gradient steps of `size / beta`, with the exact gradient."""
    table = start
    for _ in range(steps):
        table = table - size / BETA * natural(SPACE, table, gradient(config, table))
        table = np.log(softmax(table))
    return table


@pytest.mark.parametrize("start", [REF, *ELSEWHERE[:2]])
def test_training_ends_where_the_placement_says(start, float64):
    same(softmax(trained(in_reward("k1"), start, steps=1)), softmax(tilt()))  # one step is enough
    same(softmax(trained(in_loss("k2"), start, steps=1)), softmax(tilt()))
    k3 = softmax(trained(in_loss("k3"), start, steps=300, size=0.1))
    same(k3, softmax(k3_optimum()), atol=1e-7)
    other(k3, softmax(tilt()))
    best = trained(in_loss("k1"), start, steps=20)  # unregularised: everything on the best arm
    same(softmax(best), np.eye(5)[[REWARD.argmax()]], atol=1e-5)
    other(softmax(trained(in_loss("k2"), start, steps=20)), np.eye(5)[[REWARD.argmax()]])
