"""The gold reward: three small automata that read a text side by side, their rewards added."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.tasks.reviews import lexicon
from rlhf_jax.tasks.reviews.exact import edges_of, expected_visits
from rlhf_jax.tasks.reviews.grammar import FINISHED, START, Grammar
from rlhf_jax.tasks.reviews.vocabulary import PAD
from rlhf_jax.types import Array, ScoreFn


class Machine(NamedTuple):
    """A deterministic automaton that starts in state 0 and pays a reward at each token."""

    next_state: np.ndarray  # [S, V] int32
    reward: np.ndarray  # [S, V] float32


def grammar_machine(grammar: Grammar, penalty: float = lexicon.UNGRAMMATICAL) -> Machine:
    """Pays `penalty` for a token of probability 0, then goes on from where it usually stands.

    After an impossible token the state is the one most texts are in just after that token, so
    one slip costs once. Padding and BOS inside a text cost and change nothing.
    """
    impossible = grammar.probs == 0
    usual = _usual_state_after(grammar)  # [V]
    stay = np.arange(len(grammar.probs))[:, None]
    resumed = np.where(usual[None] >= 0, usual[None], stay)  # [S, V]
    resumed[START] = np.where(usual >= 0, usual, START)
    next_state = np.where(impossible, resumed, grammar.next_state)
    return Machine(next_state.astype(np.int32), np.where(impossible, penalty, 0).astype(np.float32))


def _usual_state_after(grammar: Grammar) -> np.ndarray:
    edges = edges_of(grammar)
    flow = np.zeros((len(grammar.words), edges.num_states))
    np.add.at(flow, (edges.token, edges.target), expected_visits(grammar)[edges.source] * edges.prob)
    usual = np.where(flow.any(axis=1), flow.argmax(axis=1), -1)
    usual[list(range(2))] = -1  # padding and BOS
    return usual
