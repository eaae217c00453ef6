"""Fact A8 for texts of three tokens: only in the reward is the KL that of the text.

A KL per token in the loss is differentiated at the texts that were drawn; that a token also leads
to places where the KL is large is left out (Tang and Munos 2025, arXiv:2506.09477). The policy such
a loss is at rest at is a closed form as well: each token tilts by its mean return, and later KL is
free.
"""

import numpy as np
import pytest

from .tabular import (
    gradient_of,
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

BETA = 0.5
SPACE = tree(3, 3)
RNG = np.random.default_rng(1)
REWARD = RNG.normal(size=27)
REF = RNG.normal(size=(13, 3))
ELSEWHERE = RNG.normal(size=(3, 13, 3))
PER_TOKEN = {
    "full": settings(kl_placement="loss", kl_estimator="full"),
    "k2": settings(kl_placement="loss", kl_estimator="k2"),
    "k1 x ratio": settings(kl_placement="loss", kl_estimator="k1", kl_importance=True),
    "k3 x ratio": settings(kl_placement="loss", kl_estimator="k3", kl_importance=True),
}
IN_REWARD = {
    "texts": settings(kl_placement="reward"),
    "returns": settings(kl_placement="reward", advantage="reinforce_pp"),  # of each token
}


def gradient(config, table, reward=REWARD, coef=BETA):
    return gradient_of(config, SPACE, reward, table, REF, coef=coef)


def tilt(beta=BETA):
    return table_of(SPACE, tilted(probabilities(SPACE, REF), REWARD, beta))


def backward(value_of):
    """Log-probabilities [rows, V] node by node from the last; `value_of` a node's values."""
    ref, policy = np.log(softmax(REF)), np.zeros((13, 3))
    values = np.zeros(40)  # of every prefix, the 27 whole texts included
    for text, nodes, reward in zip(SPACE.tokens, SPACE.nodes, REWARD):
        values[nodes[2] * 3 + text[2] + 1] = reward
    for node in reversed(range(13)):
        ahead = values[node * 3 + 1 : node * 3 + 4]
        policy[node] = np.log(softmax(ref[node] + ahead / BETA))
        values[node] = value_of(ahead, ref[node], np.exp(policy[node]))
    return policy


def soft(ahead, log_ref, probs):
    return BETA * np.log(np.sum(np.exp(log_ref + ahead / BETA)))


def myopic(ahead, log_ref, probs):
    return probs @ ahead


def kl_of_texts(table):
    """Gradient [rows, V] of the sum over texts: `sum_y p(y) log(p(y) / q(y)) grad log p(y)`."""
    p, q = probabilities(SPACE, table), probabilities(SPACE, REF)
    return ((p * np.log(p / q)) @ score_functions(SPACE, table)).reshape(13, 3)


def kl_of_tokens(table):
    """Sum over nodes of how often they come times the gradient of their own KL."""
    found = np.zeros((13, 3))
    p, probs, ref = probabilities(SPACE, table), softmax(table), softmax(REF)
    for node in range(13):
        reached = p[(SPACE.nodes == node).any(axis=1)].sum()
        d = np.log(probs[node] / ref[node])
        found[node] = reached * probs[node] * (d - probs[node] @ d)
    return found


def left_out(table):
    """Each token's log-probability, times the KL of the tokens after it."""
    p, found = probabilities(SPACE, table), np.zeros((13, 3))
    kl = token_log_probs(SPACE, table) - token_log_probs(SPACE, REF)
    for i in range(27):
        for t, later in ((0, kl[i, 1:].sum()), (1, kl[i, 2:].sum())):
            node = SPACE.nodes[i, t]
            each = np.eye(3)[SPACE.tokens[i, t]] - softmax(table)[node]
            found[node] += p[i] * later * each
    return found


def test_the_tilt_is_soft_dynamic_programming(float64):
    same(softmax(backward(soft)), softmax(tilt()))
    other(softmax(backward(myopic)), softmax(tilt()))


@pytest.mark.parametrize("name", IN_REWARD)
def test_k1_in_the_reward_is_at_rest_at_the_tilt_of_texts(name, float64):
    same(gradient(IN_REWARD[name], tilt()), 0.0)
    other(gradient(IN_REWARD[name], backward(myopic)), 0.0, by=0.01)
    other(gradient(IN_REWARD[name], tilt(2 * BETA)), 0.0, by=0.01)
    for table in ELSEWHERE:
        same(gradient(IN_REWARD[name], table, np.zeros(27)), BETA * kl_of_texts(table))
        other(gradient(IN_REWARD[name], table, np.zeros(27)), BETA * kl_of_tokens(table))


@pytest.mark.parametrize("name", PER_TOKEN)
def test_a_kl_of_tokens_in_the_loss_is_at_rest_at_the_myopic_tilt(name, float64):
    same(gradient(PER_TOKEN[name], backward(myopic)), 0.0)
    other(gradient(PER_TOKEN[name], tilt()), 0.0, by=0.01)
    other(gradient(PER_TOKEN[name], REF), 0.0, by=0.01)


@pytest.mark.parametrize("name", PER_TOKEN)
def test_its_gradient_lacks_the_kl_that_a_token_leads_to(name, float64):
    for table in ELSEWHERE:
        found = gradient(PER_TOKEN[name], table, np.zeros(27))
        same(found, BETA * kl_of_tokens(table))
        same(found + BETA * left_out(table), BETA * kl_of_texts(table))
        other(found, BETA * kl_of_texts(table))
    # At the last token nothing comes later, and the two are one.
    same(found[4:], BETA * kl_of_texts(table)[4:])
    other(found[:4], BETA * kl_of_texts(table)[:4])


def test_the_two_optima_are_far_apart(float64):
    texts, tokens = (probabilities(SPACE, table) for table in (tilt(), backward(myopic)))
    gap = BETA * np.sum(tokens * np.log(tokens / texts))
    assert gap > 0.01  # what the myopic one loses of the objective
    best = BETA * np.log(np.sum(probabilities(SPACE, REF) * np.exp(REWARD / BETA)))
    kl = np.sum(tokens * np.log(tokens / probabilities(SPACE, REF)))
    same(best - (tokens @ REWARD - BETA * kl), gap)
