"""Fact A13: what generalized advantage estimation is on average, on texts of one to three tokens.

Each token has a reward of its own; values of every prefix follow by working backwards. What stands
on padding is junk.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops.advantages import gae
from rlhf_jax.rollout.text import Experience
from rlhf_jax.train.advantages import estimate, text_gae
from rlhf_jax.train.policy_loss import minibatch_loss
from rlhf_jax.types import TextRollout

from .tabular import (
    QUICK,
    TABLE,
    other,
    probabilities,
    same,
    score_functions,
    settings,
    softmax,
    token_log_probs,
    tree,
)

RNG = np.random.default_rng(8)
SPACE = tree(3, 3, eos=2)
TEXTS, SLOTS = SPACE.tokens.shape
POLICY = RNG.normal(size=(13, 3))
OF_TOKEN = RNG.normal(size=(13, 3))  # reward of each token at each prefix
WRONG = RNG.normal(size=13)  # a value function that knows nothing
JUNK = 7.0
P = probabilities(SPACE, POLICY)
REAL = SPACE.mask
REWARDS = np.where(REAL, OF_TOKEN[SPACE.nodes, SPACE.tokens], JUNK)
CONFIG = settings(advantage="gae")


def true_values(gamma):
    """V [13] and Q [13, 3] of the policy: a text ends with token 2, or after three tokens."""
    values, q = np.zeros(13), np.zeros((13, 3))
    for node in reversed(range(13)):
        for a in range(3):
            ahead = node * 3 + a + 1
            goes_on = a != 2 and ahead < 13
            q[node, a] = OF_TOKEN[node, a] + (gamma * values[ahead] if goes_on else 0.0)
        values[node] = softmax(POLICY)[node] @ q[node]
    return values, q


def on_texts(values):
    return np.where(REAL, values[SPACE.nodes], JUNK)


@jax.jit
def _advantages(values, rewards, gamma, gae_lambda):
    algo = dataclasses.replace(CONFIG.algo, gamma=gamma, gae_lambda=gae_lambda)
    return text_gae(algo, rewards, values, jnp.asarray(REAL))


def ours(values, gamma, gae_lambda):
    return np.asarray(
        _advantages(*map(jnp.asarray, (on_texts(values), REWARDS)), gamma, gae_lambda)
    )


def never_ending(values, gamma, gae_lambda):
    """The mask forgotten: what stands on padding is bootstrapped from."""
    bootstrap = jnp.asarray(np.pad(on_texts(values), [(0, 0), (0, 1)]))
    discounts = jnp.full((TEXTS, SLOTS), gamma)
    one = lambda r, d, v: gae(r, d, v, gae_lambda=gae_lambda)
    return np.asarray(jax.vmap(one)(jnp.asarray(REWARDS), discounts, bootstrap))


def one_slot_late(values, gamma, gae_lambda):
    """The values of the slots before."""
    late = jnp.asarray(np.roll(on_texts(values), 1, axis=1))
    return np.asarray(_advantages(late, jnp.asarray(REWARDS), gamma, gae_lambda))


def given_token(advantages):
    """Mean advantage [13, 3] of each token at each prefix, over all texts that have it."""
    total, weight = np.zeros((13, 3)), np.zeros((13, 3))
    for i, t in zip(*np.nonzero(REAL)):
        at = SPACE.nodes[i, t], SPACE.tokens[i, t]
        total[at] += P[i] * advantages[i, t]
        weight[at] += P[i]
    return total / np.where(weight > 0, weight, 1.0)


VISITED = given_token(np.ones((TEXTS, SLOTS)))  # 0 for prefixes after an end


def test_with_lambda_one_it_is_the_return_less_the_value_whatever_the_values(float64):
    for gamma in (1.0, 0.9):
        returns = np.zeros((TEXTS, SLOTS))
        for i, t in zip(*np.nonzero(REAL)):
            later = range(t, SPACE.lengths[i])
            returns[i, t] = sum(gamma ** (k - t) * REWARDS[i, k] for k in later)
        wanted = (returns - on_texts(WRONG))[REAL]
        same(ours(WRONG, gamma, 1.0)[REAL], wanted)
        for broken in (never_ending, one_slot_late):
            other(broken(WRONG, gamma, 1.0)[REAL], wanted)
        other(ours(WRONG, gamma, 0.9)[REAL], wanted)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
def test_with_the_right_values_every_lambda_is_unbiased(gae_lambda, gamma, float64):
    values, q = true_values(gamma)
    wanted = VISITED * (q - values[:, None])
    same(given_token(ours(values, gamma, gae_lambda)), wanted)
    for broken in (never_ending, one_slot_late):
        other(given_token(broken(values, gamma, gae_lambda)), wanted)
    if gae_lambda < 1.0:
        other(given_token(ours(true_values(0.5)[0], gamma, gae_lambda)), wanted)


def bias(gamma, gae_lambda):
    """`-e_t + gamma (1 - lambda) sum_l (gamma lambda)^l E[e_{t+1+l} | s_t, a_t]`, e = wrong - V."""
    error, found = WRONG - true_values(gamma)[0], np.zeros((TEXTS, SLOTS))
    for i, t in zip(*np.nonzero(REAL)):
        ahead = SPACE.nodes[i, t + 1 : SPACE.lengths[i]]
        powers = (gamma * gae_lambda) ** np.arange(len(ahead))
        found[i, t] = gamma * (1 - gae_lambda) * (powers @ error[ahead]) - error[SPACE.nodes[i, t]]
    return given_token(found)


@pytest.mark.parametrize("gamma, gae_lambda", [(1.0, 0.0), (1.0, 0.7), (0.9, 0.7), (0.9, 1.0)])
def test_with_wrong_values_the_bias_is_the_formulas(gamma, gae_lambda, float64):
    values, q = true_values(gamma)
    found = given_token(ours(WRONG, gamma, gae_lambda)) - VISITED * (q - values[:, None])
    same(found, bias(gamma, gae_lambda))
    other(found, 0.0)
    other(found, bias(gamma, gae_lambda - 0.3))
    other(found, -bias(gamma, gae_lambda))


def descent(values, gae_lambda):
    """Mean gradient of the training loss, its advantages those of `estimate`, gamma 1."""
    algo = dataclasses.replace(CONFIG.algo, gae_lambda=gae_lambda)
    # The network of these tests has no value function: the loss is told of none.
    without_critic = settings()

    def loss(table, tokens, mask, rewards, values, log_probs):
        one = jnp.ones((1, 1), bool)
        rollout = TextRollout(
            prompt_tokens=jnp.ones((1, 1), jnp.int32),
            prompt_mask=one,
            completion_tokens=tokens[None],
            completion_mask=mask[None],
            behavior_log_probs=log_probs[None],
        )
        zeros = jnp.zeros_like(rewards[None])
        given = {"rewards": rewards[None], "values": values[None], "advantages": zeros}
        raw = Experience(
            rollout=rollout, learnt=mask[None], returns=zeros, ref_log_probs=zeros, **given
        )
        extra = {"kl_coef": jnp.zeros(()), "penalty_coef": jnp.zeros(())}
        params = {"policy": {"table": table}}
        return minibatch_loss(TABLE, without_critic, extra, params, estimate(algo, raw))[0]

    rows = SPACE.tokens, REAL, REWARDS, on_texts(values), token_log_probs(SPACE, POLICY)
    arrays = [jnp.asarray(x) for x in rows]
    mean = lambda table: jnp.sum(jnp.asarray(P) * jax.vmap(lambda *x: loss(table, *x))(*arrays))
    return np.asarray(jax.jit(jax.grad(mean), compiler_options=QUICK)(jnp.asarray(POLICY)))


def test_the_policy_gradient_inherits_both(float64):
    scores, total = score_functions(SPACE, POLICY), np.where(REAL, REWARDS, 0.0).sum(axis=1)
    exact = -((P * total) @ scores).reshape(13, 3)
    right = true_values(1.0)[0]
    same(descent(right, 0.3), exact)
    same(descent(WRONG, 1.0), exact)  # a baseline, whatever it says
    other(descent(WRONG, 0.3), exact)
    reached = np.zeros((13, 3))  # how often each token at each prefix
    for i, t in zip(*np.nonzero(REAL)):
        reached[SPACE.nodes[i, t], SPACE.tokens[i, t]] += P[i]
    pushed = reached * bias(1.0, 0.3)
    wrong_by = pushed - softmax(POLICY) * pushed.sum(axis=1, keepdims=True)
    same(descent(WRONG, 0.3), exact - wrong_by)
    other(descent(WRONG, 0.3), exact + wrong_by)
