"""Fact A10: what the mean over all groups is of the gradients that group baselines give.

Every group of completions is enumerated, its loss is that of training, and its gradient autodiff's.
The rewards of the second half are 0 and 1, of mean p: there dividing by the std is a weight on the
prompt, `c_G(p)`, and a group of two has none.
"""

import math

import numpy as np
import pytest

from .tabular import (
    bandit,
    expected,
    gradient_of,
    other,
    probabilities,
    same,
    score_functions,
    settings,
    tree,
)

RNG = np.random.default_rng(5)
ARMS, TEXTS = bandit(6), tree(3, 3)
SCORES, LOGITS = RNG.normal(size=6), RNG.normal(size=(1, 6))
OF_TEXTS, TABLES = RNG.normal(size=27), RNG.normal(size=(2, 13, 3))


def ascent(space, reward, table):
    """`grad E[reward]` for rewards that are numbers: `sum_y p r grad log p`."""
    p = probabilities(space, table)
    return ((p * reward) @ score_functions(space, table)).reshape(table.shape)


def found(config, space, reward, table, group, ref=None, coef=0.0):
    ref = table if ref is None else ref
    return -gradient_of(config, space, reward, table, ref, coef=coef, group=group)


def grouped(advantage, group, **changes):
    return settings(advantage=advantage, group_size=group, **changes)


@pytest.mark.parametrize("advantage, weight", [("rloo", 1.0), ("dr_grpo", 2 / 3)])
def test_rloo_is_unbiased_and_dr_grpo_short_of_it_by_one_in_a_group(advantage, weight, float64):
    exact = ascent(ARMS, SCORES, LOGITS)
    mean = lambda config: found(config, ARMS, SCORES, LOGITS, 3)  # over all 6^3 groups
    same(mean(grouped(advantage, 3)), weight * exact)
    other(mean(grouped(advantage, 3)), (5 / 3 - weight) * exact)  # the other one's weight
    other(mean(grouped("grpo", 3)), weight * exact)  # with the std
    whitened = grouped(advantage, 3, whiten_advantages="standardize")
    other(mean(whitened), weight * exact)  # with the std of the batch


def test_on_texts_with_a_kl_in_their_rewards_rloo_is_unbiased_too(float64):
    reward, (table, ref), beta = OF_TEXTS, TABLES, 0.5
    log_ratio = np.log(probabilities(TEXTS, table) / probabilities(TEXTS, ref))
    exact = ascent(TEXTS, reward - beta * log_ratio, table)
    config = grouped("rloo", 2, kl_placement="reward")
    same(found(config, TEXTS, reward, table, 2, ref, beta), exact)  # all 27^2 groups
    other(found(config, TEXTS, reward, table, 2, ref, -beta), exact)
    config = grouped("dr_grpo", 2, kl_placement="reward")
    other(found(config, TEXTS, reward, table, 2, ref, beta), exact)


def test_the_advantages_of_a_group_are_its_own(float64):
    """A batch of four texts is two groups of two, not one of four; all 3^4 batches are drawn."""
    space, reward, table = bandit(3), np.array([1.0, 0.0, 3.0]), np.array([[0.3, -0.2, 0.1]])
    exact = ascent(space, reward, table)
    same(found(grouped("rloo", 2), space, reward, table, 4), exact)
    same(found(grouped("dr_grpo", 2), space, reward, table, 4), exact / 2)
    other(found(grouped("dr_grpo", 4), space, reward, table, 4), exact / 2)


def c(group, p, ddof=0):
    """`E_k sqrt(k / G (1 - k / G)) / (p (1 - p))`, k successes of G."""
    total = 0.0
    for k in range(group + 1):
        chance = math.comb(group, k) * p**k * (1 - p) ** (group - k)
        std = math.sqrt(k / group * (1 - k / group) * group / (group - ddof))
        centred = k / group * (1 - k / group)
        total += chance * (centred / std if std else 0.0)
    return total / (p * (1 - p))


COIN = bandit(2)
PRINTED = {0.02: 2.573, 0.1: 2.328, 0.5: 1.856, 0.9: 2.328, 0.98: 2.573}


def weight_of(config, p, group):
    """The factor between the mean gradient and `grad p`, which has one direction."""
    table = np.log([[1 - p, p]])
    mean = found(config, COIN, np.array([0.0, 1.0]), table, group)
    exact = ascent(COIN, np.array([0.0, 1.0]), table)
    same(mean[0, 0], -mean[0, 1])
    return mean[0, 1] / exact[0, 1]


@pytest.mark.parametrize("group", [2, 3, 8])
def test_dividing_by_the_std_weighs_a_prompt_by_its_success_rate(group, float64):
    for p in PRINTED:
        same(weight_of(grouped("grpo", group), p, group), c(group, p))
        other(c(group, p, ddof=1), c(group, p))  # the other std would be seen
        if group == 2:
            same(c(2, p), 1.0)  # the std of two is half their gap: nothing but a sign is left
        else:
            other(c(group, p), 1.0, by=0.01)
        if group == 8:
            same(c(8, p), PRINTED[p], atol=5e-4)
            other(c(7, p), PRINTED[p], by=5e-3)


def test_the_std_with_ddof_one_has_its_own_weight(float64):
    config = grouped("grpo", 3, whiten_variance="unbiased")
    same(weight_of(config, 0.1, 3), c(3, 0.1, ddof=1))
    other(weight_of(config, 0.1, 3), c(3, 0.1))
    for p in PRINTED:  # and without the division there is none, for any success rate
        same(weight_of(grouped("dr_grpo", 3), p, 3), 2 / 3)


def test_large_groups_climb_twice_the_arcsine_of_the_root(float64):
    """`c_G(p) -> 1 / sqrt(p (1 - p))`, the slope of `2 arcsin sqrt(p)`."""
    for p in (0.1, 0.5, 0.7):
        step = 1e-6
        slope = np.arcsin(np.sqrt(p + step)) - np.arcsin(np.sqrt(p - step))
        same(slope / step, 1 / np.sqrt(p * (1 - p)), atol=1e-7)
        gaps = [abs(c(group, p) - slope / step) for group in (8, 64, 512)]
        assert gaps[0] > 4 * gaps[1] > 16 * gaps[2]  # as 1 / G
        other(slope / step, c(2, p), by=0.1)


@pytest.mark.parametrize("advantage", ["grpo", "dr_grpo", "rloo"])
def test_groups_that_agree_say_nothing(advantage, float64):
    """Each of them: the loss itself is 0, not only the gradient's mean."""
    equal = np.full(6, 0.1)
    value, gradient, _ = expected(grouped(advantage, 3), ARMS, equal, LOGITS, LOGITS, group=3)
    assert value == 0.0 and np.all(gradient == 0.0)
    value, gradient, _ = expected(settings(), ARMS, equal, LOGITS, LOGITS)
    same(gradient, 0.0)
    other(value, 0.0)  # without a baseline they cancel in the mean alone
