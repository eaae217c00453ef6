"""The gold reward: automata that read a text side by side, their rewards added."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.tasks.reviews.films import film_grammar
from rlhf_jax.tasks.reviews.machines import (
    Machine,
    grammar_machine,
    repetition_machine,
    sentiment_machine,
)
from rlhf_jax.tasks.reviews.vocabulary import make_codec
from rlhf_jax.tasks.tokens import BOS, EOS, PAD
from rlhf_jax.types import Array, ScoreFn


@functools.cache
def film_machines() -> tuple[Machine, Machine, Machine]:
    """The task's automata: grammaticality, sentiment, repetition."""
    grammar = film_grammar()
    words = grammar.words
    return grammar_machine(grammar), sentiment_machine(words), repetition_machine(words)


def make_gold(machines: Sequence[Machine]) -> ScoreFn:
    """Score of whole texts: r(x) = sum_t sum_m reward_m[state_m(x_<t), x_t].

    The machines' tables are stacked, so one gather a token steps all of them.

    Args:
        machines: M automata over the same V tokens.

    Returns:
        (tokens [B, L] int32, mask [B, L] bool) -> [B] float32. Masked-out tokens, wherever they
        stand, leave states and score untouched.

    >>> score = make_gold(film_machines())
    >>> ids = [film_grammar().words.index(w) for w in "<bos> it was not good .".split()]
    >>> float(score(jnp.array([ids]), jnp.ones((1, 6), bool))[0]).__round__(4)
    -0.6
    """
    starts = np.cumsum([0] + [len(m.reward) for m in machines])[:-1].astype(np.int32)  # [M]
    stacked = [m.next_state + first for m, first in zip(machines, starts, strict=True)]
    next_row = np.concatenate(stacked)  # [R, V], rows of all machines
    reward = np.concatenate([m.reward for m in machines])  # [R, V]

    def score(tokens: Array, mask: Array) -> Array:
        chex.assert_rank([tokens, mask], 2)
        chex.assert_equal_shape([tokens, mask])
        next_table, reward_table = jnp.asarray(next_row), jnp.asarray(reward)

        def step(carry: tuple[Array, Array], inputs: tuple[Array, Array]) -> tuple:
            rows, total = carry  # [B, M], [B]
            token, real = inputs  # [B], [B]
            gain = jnp.sum(reward_table[rows, token[:, None]], axis=1)
            after = next_table[rows, token[:, None]]
            carry = jnp.where(real[:, None], after, rows), total + jnp.where(real, gain, 0.0)
            return carry, None

        begin = jnp.broadcast_to(jnp.asarray(starts)[None], (tokens.shape[0], len(starts)))
        carry = begin, jnp.zeros(tokens.shape[0], jnp.float32)
        (_, total), _ = jax.lax.scan(step, carry, (tokens.T, mask.T))
        return total

    return score


class WordScore(NamedTuple):
    """What one word of a text earned, by automaton."""

    word: str
    grammar: float
    sentiment: float
    repetition: float


def describe(text: str) -> list[WordScore]:
    """Explains a review's gold score word by word; the parts add up to it.

    Args:
        text: words with spaces, without special tokens; scored as a finished text.

    Raises:
        UnknownWordError: a word outside the vocabulary.

    >>> for part in describe("the plot was not bad bad ."):
    ...     if any(part[1:]):
    ...         print(part.word, *[round(x, 2) for x in part[1:]])
    bad 0.0 0.6 0.0
    bad -1.5 -1.0 -2.0
    """
    grammar = film_grammar()
    codec = make_codec(grammar.words)
    return describe_tokens([BOS, *codec.encode(text), EOS])


def describe_tokens(tokens: Sequence[int]) -> list[WordScore]:
    """`describe` for token ids, BOS first; padding is skipped."""
    grammar = film_grammar()
    machines = film_machines()
    states, parts = [0] * len(machines), []
    for token in (int(t) for t in tokens if int(t) != PAD):
        gains = [float(m.reward[s, token]) for m, s in zip(machines, states, strict=True)]
        states = [int(m.next_state[s, token]) for m, s in zip(machines, states, strict=True)]
        parts.append(WordScore(grammar.words[token], *gains))
    return parts
