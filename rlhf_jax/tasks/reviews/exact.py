"""Exact quantities of a grammar: sums over all texts, computed state by state."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rlhf_jax.tasks.reviews.grammar import FINISHED, START, Grammar
from rlhf_jax.tasks.reviews.rules import GrammarError

MAX_STEPS = 10_000


class Edges(NamedTuple):
    """The possible steps of an automaton as a list, state 0 the start."""

    source: np.ndarray  # [E] int
    token: np.ndarray  # [E] int
    target: np.ndarray  # [E] int
    prob: np.ndarray  # [E] float64
    num_states: int


def edges_of(grammar: Grammar) -> Edges:
    """The steps of positive probability, without the padding after the end."""
    source, token = np.nonzero(grammar.probs)
    source, token = source[source != FINISHED], token[source != FINISHED]
    at = (source, token)
    return Edges(source, token, grammar.next_state[at], grammar.probs[at], len(grammar.probs))


def expect(edges: Edges, values: np.ndarray) -> np.ndarray:
    """Mean of `values` [E] over the step taken from each state, [S]; 0 where a text has ended.

    >>> source, token, target = np.array([[0, 0], [3, 4], [1, 1]])
    >>> coin = Edges(source, token, target, np.array([0.25, 0.75]), 2)
    >>> expect(coin, np.array([4.0, 8.0])).tolist()
    [7.0, 0.0]
    """
    return np.bincount(edges.source, edges.prob * values, edges.num_states)


def expected_to_go(edges: Edges, gain: np.ndarray) -> np.ndarray:
    """Expected sum of `gain` over the steps from each state to the end.

    v(s) = sum_e p(e | s) (gain(e) + v(target(e))), repeated until it no longer changes: exact
    after as many rounds as the longest text has tokens, to float64 rounding if there are cycles.

    Args:
        edges: E steps over S states.
        gain: [E].

    Returns:
        [S] float64.

    Raises:
        GrammarError: the sum does not converge, as when texts never end.
    """
    value = np.zeros(edges.num_states)
    for _ in range(MAX_STEPS):
        updated = expect(edges, gain + value[edges.target])
        if np.allclose(updated, value, rtol=1e-13, atol=0):
            return updated
        value = updated
    raise GrammarError(f"an expectation did not converge in {MAX_STEPS} rounds")


def entropy_per_text(grammar: Grammar) -> float:
    """H = -sum_x p(x) log p(x) in nats, over all texts x.

    >>> from rlhf_jax.tasks.reviews.grammar import compile_grammar
    >>> round(entropy_per_text(compile_grammar("A = a B | b B\\nB = a | b")), 6)
    1.386294
    """
    edges = edges_of(grammar)
    return float(expected_to_go(edges, -np.log(edges.prob))[START])


def expected_length(grammar: Grammar) -> float:
    """Mean number of predicted tokens of a text: its words and EOS, not BOS.

    >>> from rlhf_jax.tasks.reviews.grammar import compile_grammar
    >>> round(expected_length(compile_grammar("A = a | a A")), 9)
    3.0
    """
    edges = edges_of(grammar)
    return float(expected_to_go(edges, np.ones(len(edges.prob)))[START]) - 1


def length_range(grammar: Grammar) -> tuple[int, int]:
    """Words in the shortest and in the longest text, without BOS and EOS.

    Raises:
        GrammarError: there is no longest text.

    >>> from rlhf_jax.tasks.reviews.grammar import compile_grammar
    >>> length_range(compile_grammar("A = a | a b | c c c"))
    (1, 3)
    """
    edges = edges_of(grammar)
    here = np.arange(edges.num_states) == START
    finished: list[int] = []
    for step in range(edges.num_states + 1):
        here = np.bincount(edges.target, here[edges.source], edges.num_states) > 0
        if here[FINISHED]:
            finished.append(step - 1)  # BOS was step 0, EOS is this step
        if not here.any():
            return finished[0], finished[-1]
    raise GrammarError("the rules allow texts of any length")
