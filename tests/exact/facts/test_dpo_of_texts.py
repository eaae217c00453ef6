"""Fact A9 for texts: the training loss on all pairs is at rest where texts, not tokens, are tilted.

Texts of one to three tokens, padded; the log-probabilities are those that training sums.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import PreferenceConfig
from rlhf_jax.train.preference_data import PreferenceData
from rlhf_jax.train.preference_loss import batch_loss
from rlhf_jax.types import PairBatch, Sequences

from .tabular import (
    QUICK,
    TABLE,
    other,
    probabilities,
    same,
    softmax,
    table_of,
    tilted,
    tree,
)

BETA = 0.5
RNG = np.random.default_rng(13)
SPACE = tree(3, 3, eos=2)
REWARD, REF = RNG.normal(size=15), RNG.normal(size=(13, 3))
Q = probabilities(SPACE, REF)
WINS = 1 / (1 + np.exp(REWARD[None] - REWARD[:, None]))
SAMPLER = RNG.dirichlet(np.ones(225)).reshape(15, 15)
OPPONENT = RNG.dirichlet(np.ones(15))
FIRST, SECOND = (x.ravel() for x in np.indices((15, 15)))


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def slope(algo, table, ref, weights, prompt_length):
    """Gradient in the table of the mean loss; every pair is a batch of its own."""
    # Padding holds a real token, so that one more or one less in a sum would be seen.
    tokens = jnp.asarray(np.pad(SPACE.tokens, [(0, 0), (1, 0)], constant_values=1))
    mask = jnp.asarray(np.pad(SPACE.mask, [(0, 0), (1, 0)], constant_values=True))

    def one(table, i, j):
        text = lambda k: Sequences(tokens=tokens[k][None], mask=mask[k][None])
        pairs = PairBatch(
            chosen=text(i),
            rejected=text(j),
            margin=jnp.zeros(1),
            prompt_length=jnp.full(1, prompt_length, jnp.int32),
        )
        data = PreferenceData(pairs=pairs, ref_chosen=ref[i][None], ref_rejected=ref[j][None])
        return batch_loss(TABLE, algo, {"policy": {"table": table}}, data)[0]

    def total(table):
        losses = jax.vmap(one, in_axes=(None, 0, 0))(table, jnp.asarray(FIRST), jnp.asarray(SECOND))
        return jnp.sum(weights.ravel() * losses)

    return jax.grad(total)(table)


def gradient(loss, policy, labels=WINS, sampler=SAMPLER, prompt_length=1):
    """At the policy that gives each text this probability; i wins a pair of i and j `labels`."""
    chosen = labels * (sampler + sampler.T) * (1 - np.eye(15))
    args = (table_of(SPACE, policy), np.log(Q), chosen)
    algo = PreferenceConfig(loss=loss, beta=BETA)
    return np.asarray(slope(algo, *map(jnp.asarray, args), prompt_length))


def greedy_by_token():
    """Each token tilted by the mean return of going on like the reference."""
    table = softmax(REF)
    for node in range(13):
        for a in range(3):
            through = ((SPACE.nodes == node) & (SPACE.tokens == a) & SPACE.mask).any(axis=1)
            if through.any():
                table[node, a] *= np.exp(Q[through] @ REWARD[through] / Q[through].sum() / BETA)
    return probabilities(SPACE, np.log(table))


def test_dpo_is_at_rest_at_the_tilt_of_texts(float64):
    optimum = tilted(Q, REWARD, BETA)
    same(gradient("dpo", optimum), 0.0)
    for broken in (Q, tilted(Q, REWARD, 2 * BETA), tilted(Q, -REWARD, BETA), greedy_by_token()):
        other(gradient("dpo", broken), 0.0)
    per_token = tilted(Q, REWARD * SPACE.lengths, BETA)  # if sums were means over tokens
    other(gradient("dpo", per_token), 0.0)
    other(gradient("dpo", optimum, WINS.T), 0.0)
    other(gradient("dpo", optimum, prompt_length=2), 0.0)  # the first token left out of the sums


@pytest.mark.parametrize("labels", ["rewards", "cycles"])
def test_ipo_is_at_rest_where_texts_are_tilted_by_how_often_they_win(labels, float64):
    beats = WINS
    if labels == "cycles":
        upper = np.triu(np.random.default_rng(14).random((15, 15)), 1)
        beats = upper + np.tril(1 - upper.T, -1) + 0.5 * np.eye(15)
    sampler = OPPONENT[:, None] * OPPONENT[None]
    optimum = tilted(Q, beats @ OPPONENT, BETA)
    same(gradient("ipo", optimum, beats, sampler), 0.0)
    other(gradient("ipo", optimum, beats, SAMPLER), 0.0)
    other(gradient("ipo", optimum, beats.T, sampler), 0.0)
    other(gradient("ipo", tilted(Q, beats @ OPPONENT, 2 * BETA), beats, sampler), 0.0)
    other(gradient("ipo", optimum, beats, sampler, prompt_length=2), 0.0)
