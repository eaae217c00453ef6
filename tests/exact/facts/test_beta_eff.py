"""Fact A19: one regression tells which beta a run really had.

At the optimum `log(pi / ref) = r / beta - c`. Fitted with the policy's own weights, the inverse of
the slope is the effective beta, and a fit that is not perfect means another objective. Where our
loss is at rest it must be the beta of the settings; each well-known slip moves it.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from .tabular import (
    bandit,
    gradient_of,
    natural,
    other,
    over_batches,
    probabilities,
    same,
    settings,
    softmax,
    table_of,
    tilted,
    tree,
)

BETA = 0.5
RNG = np.random.default_rng(11)
ARMS, TEXTS, ENDING = bandit(6), tree(3, 3), tree(3, 3, eos=2)
ARM_REWARD, ARM_REF = RNG.normal(size=6), RNG.normal(size=(1, 6))
TEXT_REWARD, TEXT_REF = RNG.normal(size=27), RNG.normal(size=(13, 3))
REWARD_KL = settings(kl_placement="reward")


def regression(p, q, reward):
    """Effective beta and R^2, each text with its probability as weight."""
    x, y = reward - p @ reward, np.log(p / q) - p @ np.log(p / q)
    slope = (p @ (x * y)) / (p @ x**2)
    return 1 / slope, (p @ (x * y)) ** 2 / ((p @ x**2) * (p @ y**2))


def is_beta(p, q, reward, beta=BETA):
    """The check a report card would make, here to the last digit."""
    same(regression(p, q, reward), (beta, 1.0), atol=1e-7)


def is_not_beta(p, q, reward):
    """Neither exactly nor within the 5 % that a trained run is allowed."""
    with pytest.raises(AssertionError):
        is_beta(p, q, reward)
    found, fit = regression(p, q, reward)
    assert abs(found / BETA - 1) > 0.05 or fit < 0.98


def trained(config, space, reward, ref, steps=60, **kwargs):
    """Natural gradient steps with the exact gradient, from the reference until nothing moves."""
    table = ref
    for _ in range(steps):
        gradient = gradient_of(config, space, reward, table, ref, coef=BETA, **kwargs)
        table = table - 0.5 / BETA * natural(space, table, gradient)
    same(gradient_of(config, space, reward, table, ref, coef=BETA, **kwargs), 0.0)
    return table


def is_at_rest(config, space, reward, policy, ref, coef=BETA):
    same(gradient_of(config, space, reward, table_of(space, policy), ref, coef=coef), 0.0)


def moves(config, space, reward, policy, ref, coef=BETA):
    table = table_of(space, policy)
    other(gradient_of(config, space, reward, table, ref, coef=coef), 0.0)


def test_trained_to_rest_the_regression_gives_the_configured_beta(float64):
    table = trained(REWARD_KL, ARMS, ARM_REWARD, ARM_REF)
    is_beta(softmax(table[0]), softmax(ARM_REF[0]), ARM_REWARD)
    table = trained(REWARD_KL, TEXTS, TEXT_REWARD, TEXT_REF, steps=40)
    p, q = probabilities(TEXTS, table), probabilities(TEXTS, TEXT_REF)
    is_beta(p, q, TEXT_REWARD)
    is_not_beta(tilted(q, TEXT_REWARD, 1.1 * BETA), q, TEXT_REWARD)


def test_the_optimum_of_k3_in_the_loss_has_no_beta(float64):
    q, low, high = softmax(ARM_REF[0]), ARM_REWARD.max(), ARM_REWARD.max() + 10.0
    for _ in range(200):
        middle = 0.5 * (low + high)
        high_enough = np.sum(BETA * q / (middle - ARM_REWARD)) < 1.0
        low, high = (low, middle) if high_enough else (middle, high)
    policy = BETA * q / (high - ARM_REWARD)
    config = settings(kl_placement="loss", kl_estimator="k3")
    is_at_rest(config, ARMS, ARM_REWARD, policy, ARM_REF)
    is_not_beta(policy, q, ARM_REWARD)


def test_whitening_the_score_alone_multiplies_beta_by_its_spread(float64):
    q = softmax(ARM_REF[0])
    spread = 3.0
    policy = tilted(q, ARM_REWARD / spread, BETA)  # what a run with scores / 3 ends at
    is_at_rest(REWARD_KL, ARMS, ARM_REWARD / spread, policy, ARM_REF)
    moves(REWARD_KL, ARMS, ARM_REWARD, policy, ARM_REF)
    is_beta(policy, q, ARM_REWARD, beta=BETA * spread)
    is_not_beta(policy, q, ARM_REWARD)


COUNTS = np.array([6, 4, 3, 2, 1])  # of each arm in a batch of 16, which is exactly its policy
FIVE_REF = np.log(np.array([[1, 3, 4, 2, 6]]) / 16)


def one_batch(reward, whitening="none"):
    """The gradient of that single batch, at its own policy."""
    changes = {"advantage": "reinforce_pp", "whiten_rewards": whitening}
    config = settings(kl_placement="reward", **changes)
    table, arms = np.log(COUNTS / 16)[None], np.repeat(np.arange(5), COUNTS)
    tokens = arms[None, :, None].astype(np.int32)  # [1, 16, 1]
    batch = (tokens, np.ones(tokens.shape, bool), reward[arms][None], np.ones(1))
    args = map(jnp.asarray, (table, table, FIVE_REF, BETA, *batch))
    return np.asarray(over_batches(config, False, *args)[1])[0]


@pytest.mark.parametrize("how", ["scale", "standardize", "keep_mean"])
def test_our_whitening_comes_after_the_kl_and_leaves_beta_alone(how, float64):
    """It divides score and KL by one number: at the tilt nothing moves, whatever the number is."""
    p, q = COUNTS / 16, np.exp(FIVE_REF[0])
    reward = BETA * np.log(p / q) + 2.0
    is_beta(p, q, reward)
    same(one_batch(reward, how), 0.0, atol=1e-7)
    spread = np.sqrt(p @ (reward - p @ reward) ** 2)
    other(one_batch(reward / spread, how), 0.0)  # the score by itself, before the KL
    is_not_beta(tilted(q, reward / spread, BETA), q, reward)
    better = reward + np.eye(5)[0]  # now there is a spread to divide by: that of a coin of 3 / 8
    same(one_batch(better, how), one_batch(better) / np.sqrt(15 / 64), atol=1e-7)
    other(one_batch(better, how), one_batch(better))


def discounted(gamma):
    """The policy of soft dynamic programming in which the value ahead counts `gamma`."""
    table, ref, values = np.zeros((13, 3)), np.log(softmax(TEXT_REF)), np.zeros(40)
    for text, nodes, reward in zip(TEXTS.tokens, TEXTS.nodes, TEXT_REWARD):
        values[nodes[2] * 3 + text[2] + 1] = reward
    for node in reversed(range(13)):
        count = 1.0 if node >= 4 else gamma  # the score comes with the last token
        ahead = count * values[node * 3 + 1 : node * 3 + 4]
        table[node] = ref[node] + ahead / BETA
        values[node] = BETA * np.log(np.sum(np.exp(table[node])))
    return probabilities(TEXTS, table)


def test_a_discount_below_one_is_no_beta_at_all(float64):
    q = probabilities(TEXTS, TEXT_REF)
    changes = {"kl_placement": "reward", "advantage": "reinforce_pp"}
    is_at_rest(settings(**changes), TEXTS, TEXT_REWARD, discounted(1.0), TEXT_REF)
    is_beta(discounted(1.0), q, TEXT_REWARD)
    config = settings(**changes, gamma=0.6)
    is_at_rest(config, TEXTS, TEXT_REWARD, discounted(0.6), TEXT_REF)
    moves(config, TEXTS, TEXT_REWARD, discounted(1.0), TEXT_REF)
    is_not_beta(discounted(0.6), q, TEXT_REWARD)


def test_a_kl_averaged_over_tokens_is_seen(float64):
    q = probabilities(TEXTS, TEXT_REF)
    policy = tilted(q, TEXT_REWARD, BETA / 3)  # E log-ratio / 3: all texts have three tokens
    is_at_rest(REWARD_KL, TEXTS, TEXT_REWARD, policy, TEXT_REF, coef=BETA / 3)
    moves(REWARD_KL, TEXTS, TEXT_REWARD, policy, TEXT_REF)
    is_beta(policy, q, TEXT_REWARD, beta=BETA / 3)
    is_not_beta(policy, q, TEXT_REWARD)
    reward, table = TEXT_REWARD[:15], TEXT_REF  # and where lengths differ there is no one beta
    q = probabilities(ENDING, table)
    low, high = -20.0, 20.0
    for _ in range(200):  # the constant b of (r - b) |y| that makes it a distribution
        b = 0.5 * (low + high)
        total = np.sum(q * np.exp((reward - b) * ENDING.lengths / BETA))
        low, high = (b, high) if total > 1.0 else (low, b)
    policy = q * np.exp((reward - b) * ENDING.lengths / BETA)
    same(policy.sum(), 1.0)
    assert regression(policy, q, reward)[1] < 0.98
    moves(REWARD_KL, ENDING, reward, policy, table)
    is_at_rest(REWARD_KL, ENDING, reward, tilted(q, reward, BETA), table)


def test_judged_at_another_temperature_it_is_another_beta(float64):
    """Drawn and trained at 0.7, beta holds there; read at temperature 1 it is beta / 0.7."""
    heat = 0.7
    q = softmax(ARM_REF[0] / heat)
    table = heat * np.log(tilted(q, ARM_REWARD, BETA))[None]
    config = settings(heat, kl_placement="reward")
    same(gradient_of(config, ARMS, ARM_REWARD, table, ARM_REF, coef=BETA), 0.0)
    other(gradient_of(REWARD_KL, ARMS, ARM_REWARD, table, ARM_REF, coef=BETA), 0.0)
    is_beta(softmax(table[0] / heat), q, ARM_REWARD)
    is_beta(softmax(table[0]), softmax(ARM_REF[0]), ARM_REWARD, beta=BETA / heat)
    is_not_beta(softmax(table[0]), softmax(ARM_REF[0]), ARM_REWARD)


def test_an_entropy_bonus_is_a_pull_to_the_uniform_policy(float64):
    """`(ref^beta e^r)^(1 / (beta + c))`: not a tilt of the reference."""
    c, q = 0.3, softmax(ARM_REF[0])
    policy = softmax((BETA * np.log(q) + ARM_REWARD) / (BETA + c))
    config = settings(kl_placement="reward", entropy_coef=c)
    is_at_rest(config, ARMS, ARM_REWARD, policy, ARM_REF)
    moves(REWARD_KL, ARMS, ARM_REWARD, policy, ARM_REF)
    is_not_beta(policy, q, ARM_REWARD)
