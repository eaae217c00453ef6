"""Fact A11: the reward that a loss really raises, by how it counts texts of different lengths.

From the exact gradient the change of every text's log-probability under a natural gradient step is
recovered: up to a constant that *is* the reward being raised. A mean per text raises
`(r - b) / |y|`, so wrong answers grow longer and right ones shorter (Liu et al. 2025,
arXiv:2503.20783).
"""

import itertools

import numpy as np
import pytest

from .tabular import ascended, gradient_of, other, probabilities, same, settings, table_of, tree

SPACE = tree(3, 3, eos=2)  # 15 texts of 1 to 3 tokens
LENGTHS = SPACE.lengths
RNG = np.random.default_rng(6)
TABLE = RNG.normal(size=(13, 3))
P = probabilities(SPACE, TABLE)
CORRECT = (SPACE.tokens.sum(axis=1) % 2 == 0).astype(float)  # some of every length, not all
GRADED = RNG.normal(size=15)
GROUP = 2


def mean(x, p=P):
    return p @ x


def centred(x):
    """A reward is known up to a constant."""
    return x - mean(x)


def raised(aggregation, advantage="dr_grpo", reward=CORRECT, group=GROUP):
    """The reward of each text that the training loss raises, from its gradient alone."""
    config = settings(aggregation=aggregation, advantage=advantage, group_size=group)
    gradient = gradient_of(config, SPACE, reward, TABLE, TABLE, group=group)
    return ascended(SPACE, TABLE, gradient)


def test_a_sum_or_a_constant_length_raises_the_reward_itself(float64):
    same(raised("sequence_sum"), (GROUP - 1) / GROUP * centred(CORRECT))
    same(raised("constant_length"), (GROUP - 1) / GROUP * centred(CORRECT) / 3)
    same(raised("sequence_sum", "rloo"), centred(CORRECT))
    for broken in ("sequence_mean", "token_mean"):
        other(raised(broken), (GROUP - 1) / GROUP * centred(CORRECT), by=0.01)


def test_a_mean_per_text_raises_the_reward_over_the_length(float64):
    law = centred((CORRECT - mean(CORRECT)) / LENGTHS)
    same(raised("sequence_mean"), (GROUP - 1) / GROUP * law)
    same(raised("sequence_mean", "rloo"), law)
    other(raised("sequence_mean", "rloo"), centred(CORRECT / LENGTHS))  # the baseline matters
    other(raised("sequence_mean", "rloo"), centred((CORRECT - 0.5) / LENGTHS))
    law = centred((GRADED - mean(GRADED)) / LENGTHS)
    same(raised("sequence_mean", "rloo", GRADED), law)
    plain = centred(GRADED / LENGTHS)  # without a baseline b is 0
    same(raised("sequence_mean", "no_baseline", GRADED, 1), plain)
    other(plain, law)


def by_the_tokens_of_a_group(reward):
    """Brute force for "token_mean": a text's advantage over the tokens of its group, averaged."""
    total = np.zeros(15)
    for texts in itertools.product(range(15), repeat=GROUP):
        scores = reward[list(texts)]
        tokens = LENGTHS[list(texts)].sum()
        for text, score in zip(texts, scores):
            total[text] += np.prod(P[list(texts)]) * (score - scores.mean()) / tokens
    return total / P  # given that the text is in the group; it may stand anywhere


def test_a_mean_over_tokens_lies_between(float64):
    law = centred(by_the_tokens_of_a_group(CORRECT))
    same(raised("token_mean"), law)
    other(raised("token_mean"), law * GROUP)
    # A long text shares its mean with itself alone: the pull on lengths is there, but weaker.
    pull = {name: length_pull(raised(name)) for name in ("token_mean", "sequence_mean")}
    assert 0.0 < pull["token_mean"][0] < 0.5 * pull["sequence_mean"][0]
    assert 0.0 > pull["token_mean"][1] > 0.5 * pull["sequence_mean"][1]


def length_pull(reward):
    """How raising a reward changes the mean length of wrong and of right texts.

    That is its covariance with the length among them; divided by how far it parts right from wrong,
    so that scales do not count.
    """
    among = [P * kind / mean(kind) for kind in (1.0 - CORRECT, CORRECT)]
    gap = among[1] @ reward - among[0] @ reward
    return [(p @ (reward * LENGTHS) - (p @ reward) * (p @ LENGTHS)) / gap for p in among]


@pytest.mark.parametrize("aggregation", ["sequence_sum", "constant_length"])
def test_without_a_mean_per_text_lengths_stay(aggregation, float64):
    same(length_pull(raised(aggregation)), 0.0)
    wrong, right = length_pull(raised("sequence_mean"))
    assert wrong > 0.01 and right < -0.01  # wrong answers grow, right ones shrink
    other(wrong, 0.0, by=0.01)
    wrong, right = length_pull(raised("sequence_mean", "grpo"))  # with the std as well
    assert wrong > 0.01 and right < -0.01


BETA = 0.7


def at_rest(reward, aggregation, advantage, group, policy):
    config = settings(
        aggregation=aggregation, advantage=advantage, group_size=group, kl_placement="reward"
    )
    table = table_of(SPACE, policy)
    return gradient_of(config, SPACE, reward, table, TABLE, coef=BETA, group=group)


def tilt(reward, per_token=0.0):
    found = P * np.exp((reward - per_token * LENGTHS) / BETA)
    return found / found.sum()


def test_with_a_kl_a_mean_per_text_keeps_the_optimum_only_if_there_is_a_baseline(float64):
    """`(R - b) / |y|` is the same for all texts where R is, if b is its mean; else `R = c |y|`."""
    reward = GRADED + 1.0
    for advantage in ("rloo", "dr_grpo"):
        same(at_rest(reward, "sequence_mean", advantage, 2, tilt(reward)), 0.0)
    same(at_rest(reward, "sequence_sum", "no_baseline", 1, tilt(reward)), 0.0)
    other(at_rest(reward, "sequence_mean", "no_baseline", 1, tilt(reward)), 0.0)
    low, high = -20.0, 20.0
    for _ in range(200):  # the price c of a token at which the tilt needs no constant
        price = 0.5 * (low + high)
        total = np.sum(P * np.exp((reward - price * LENGTHS) / BETA))
        low, high = (price, high) if total > 1.0 else (low, price)
    same(at_rest(reward, "sequence_mean", "no_baseline", 1, tilt(reward, price)), 0.0)
    other(tilt(reward, price), tilt(reward), by=0.01)
    other(at_rest(reward, "sequence_mean", "rloo", 2, tilt(reward, price)), 0.0)
