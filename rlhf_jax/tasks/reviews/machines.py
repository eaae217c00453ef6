"""The automata that make up gold: grammaticality, sentiment, repetition."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from rlhf_jax.tasks.reviews import lexicon
from rlhf_jax.tasks.reviews.grammar import START, Grammar
from rlhf_jax.tasks.tokens import BOS, PAD

H = TypeVar("H", bound=Hashable)


class Machine(NamedTuple):
    """A deterministic automaton over tokens that starts in state 0 and pays at each token."""

    next_state: np.ndarray  # [S, V] int32
    reward: np.ndarray  # [S, V] float32


def build_machine(
    start: H, step: Callable[[H, str], tuple[H, float]], words: Sequence[str]
) -> Machine:
    """Tabulates a step function over every state it can reach.

    >>> counter = build_machine(0, lambda n, word: (min(n + 1, 2), float(n)), ["a", "b"])
    >>> counter.next_state.tolist(), counter.reward[:, 0].tolist()
    ([[1, 1], [2, 2], [2, 2]], [0.0, 1.0, 2.0])
    """
    ids, queue, rows = {start: 0}, [start], []
    for state in queue:  # grows while we walk it
        row = [step(state, word) for word in words]
        for after, _ in row:
            if after not in ids:
                ids[after] = len(ids)
                queue.append(after)
        rows.append([(ids[after], reward) for after, reward in row])
    table = np.array(rows)  # [S, V, 2]
    return Machine(table[..., 0].astype(np.int32), table[..., 1].astype(np.float32))


class Mood(NamedTuple):
    """What the sentiment automaton remembers."""

    negated: bool = False
    degree: float = lexicon.PLAIN  # scale of the next valence word
    good: int = 0  # words that pleased so far, up to where the fade ends
    bad: int = 0


def sentiment_machine(words: Sequence[str]) -> Machine:
    """Pays valence * scale(degree, negation) * fade(words of that sign so far)."""
    return build_machine(Mood(), _feel, words)


def _feel(mood: Mood, word: str) -> tuple[Mood, float]:
    if word in lexicon.BOUNDARY:
        return mood._replace(negated=False, degree=lexicon.PLAIN), 0.0
    if word in lexicon.NEGATION:
        return mood._replace(negated=True), 0.0
    if word in lexicon.STRONG:
        return mood._replace(degree=lexicon.STRONG_SCALE), 0.0
    if word in lexicon.WEAK:
        return mood._replace(degree=lexicon.WEAK_SCALE), 0.0
    if word not in lexicon.VALENCE:
        return mood, 0.0
    return _judge(mood, lexicon.VALENCE[word] * lexicon.scale(mood.negated, mood.degree))


def _judge(mood: Mood, worth: float) -> tuple[Mood, float]:
    last = len(lexicon.FADE) - 1
    if worth > 0:
        return Mood(good=min(mood.good + 1, last), bad=mood.bad), worth * lexicon.FADE[mood.good]
    return Mood(good=mood.good, bad=min(mood.bad + 1, last)), worth * lexicon.FADE[mood.bad]


def repetition_machine(words: Sequence[str]) -> Machine:
    """Pays the penalty when a valence word or strong degree is the last such word again."""
    heavy = {*lexicon.VALENCE, *lexicon.STRONG}

    def step(last: str, word: str) -> tuple[str, float]:
        if word not in heavy:
            return last, 0.0
        return word, lexicon.REPETITION if word == last else 0.0

    return build_machine("", step, words)


def grammar_machine(grammar: Grammar) -> Machine:
    """Pays the penalty at a token of probability 0, then goes on from wherever that may stand.

    The machine's state is the set of grammar states a text may be in: one state, until a slip.
    After it they are all states that the token leads to from anywhere, and the next words
    narrow them down, so one slip costs once. Padding and BOS inside a text cost and change
    nothing else.
    """
    moves = grammar.next_state.tolist()  # plain lists: read entry by entry below
    ids = {word: i for i, word in enumerate(grammar.words)}
    anywhere = [tuple(sorted({*column[1:].tolist()} - {-1})) for column in grammar.next_state.T]

    def step(states: tuple[int, ...], word: str) -> tuple[tuple[int, ...], float]:
        token = ids[word]
        after = {moves[state][token] for state in states} - {-1}
        if after:
            return tuple(sorted(after)), 0.0
        resumed = states if token in (PAD, BOS) else anywhere[token]
        return resumed, lexicon.UNGRAMMATICAL

    return build_machine((START,), step, grammar.words)
