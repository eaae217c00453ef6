"""Rules compiled to a deterministic automaton: p(next token | state)."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import numpy as np

from rlhf_jax.tasks.reviews.rules import GrammarError, Rules, Symbols, parse_rules
from rlhf_jax.tasks.tokens import BOS, EOS, PAD, SPECIALS

START, FINISHED = 0, 1  # before BOS; after EOS
MAX_STATES, MAX_DEPTH = 3_000, 100

Stack = Symbols  # the symbols still to be written, next one first
Belief = tuple[tuple[Stack, float], ...]  # what may still be to write, given the words so far


class Grammar(NamedTuple):
    """p(next token | state), where the state follows from the tokens before it.

    A text is BOS, words, EOS. State `START` writes BOS; state `FINISHED` writes only padding.
    """

    words: tuple[str, ...]  # [V], the word of each token id
    probs: np.ndarray  # [S, V] float64, rows sum to 1
    next_state: np.ndarray  # [S, V] int32, -1 where the probability is 0


def compile_grammar(text: str) -> Grammar:
    """Compiles rules to an automaton by weighted subset construction; the first rule is the root.

    A state is the posterior over what remains to be written, given the words so far, so rules
    may share beginnings freely and the next-token distribution is still exact. Right recursion
    gives cycles; any other recursion has no finite automaton.

    Raises:
        GrammarError: malformed rules, or recursion other than on the right.

    >>> grammar = compile_grammar("A = the film | 3 the plot was B\\nB = dull | fine B")
    >>> grammar.words[3:]
    ('dull', 'film', 'fine', 'plot', 'the', 'was')
    >>> grammar.probs.shape, float(grammar.probs[3, grammar.words.index("plot")])
    ((7, 9), 0.75)
    """
    rules = parse_rules(text)
    words = (*SPECIALS, *sorted(_terminals(rules)))
    ids = {word: i for i, word in enumerate(words)}
    root: Belief = (((next(iter(rules)),), 1.0),)
    states: dict[Belief, int] = {root: 2}  # 0 and 1 are START and FINISHED
    edges = [(START, BOS, 2, 1.0), (FINISHED, PAD, FINISHED, 1.0)]
    queue: list[Belief] = [root]
    for belief in queue:  # grows while we walk it
        for word, (prob, after) in _step(belief, rules).items():
            if after and after not in states:
                states[after] = len(states) + 2
                queue.append(after)
            target = states[after] if after else FINISHED
            edges.append((states[belief], ids[word], target, prob))
        if len(states) > MAX_STATES:
            raise GrammarError(f"more than {MAX_STATES} states: only recursion on the right ends")
    return _tables(words, len(states) + 2, edges)


def _terminals(rules: Rules) -> set[str]:
    symbols = {s for parts in rules.values() for _, stack in parts for s in stack}
    return symbols - set(rules)


def _tables(words: tuple[str, ...], num_states: int, edges: list) -> Grammar:
    probs = np.zeros((num_states, len(words)))
    next_state = np.full((num_states, len(words)), -1, np.int32)
    for source, token, target, prob in edges:
        probs[source, token], next_state[source, token] = prob, target
    return Grammar(words, probs / probs.sum(1, keepdims=True), next_state)


def _step(belief: Belief, rules: Rules) -> dict[str, tuple[float, Belief]]:
    """Next words with their probabilities and the belief after each; after EOS it is empty."""
    rests: dict[str, dict[Stack, float]] = defaultdict(lambda: defaultdict(float))
    for stack, weight in belief:
        for prob, word, rest in _expand(stack, rules, 0):
            rests[word][rest] += weight * prob
    return {word: _normalise(word, rest) for word, rest in sorted(rests.items())}


def _normalise(word: str, rests: dict[Stack, float]) -> tuple[float, Belief]:
    total = sum(rests.values())
    if word == SPECIALS[EOS]:
        return total, ()
    # Rounding merges beliefs that differ by the order of additions; it is far below any weight.
    return total, tuple(sorted((rest, round(p / total, 12)) for rest, p in rests.items()))


def _expand(stack: Stack, rules: Rules, depth: int) -> list[tuple[float, str, Stack]]:
    """All (probability, first word, remaining stack) of a stack of symbols."""
    if not stack:
        return [(1.0, SPECIALS[EOS], ())]
    head, rest = stack[0], stack[1:]
    if head not in rules:
        return [(1.0, head, rest)]
    if depth > MAX_DEPTH:
        raise GrammarError(f"rule {head} can call itself without writing a word")
    return [
        (weight * prob, word, remaining)
        for weight, symbols in rules[head]
        for prob, word, remaining in _expand(symbols + rest, rules, depth + 1)
    ]
