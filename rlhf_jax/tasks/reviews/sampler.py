"""Drawing texts from a grammar, and their probability."""

from __future__ import annotations

import numpy as np

from rlhf_jax.tasks.reviews.grammar import FINISHED, START, Grammar
from rlhf_jax.tasks.tokens import PAD


def continue_texts(
    grammar: Grammar, states: np.ndarray, steps: int, rng: np.random.Generator
) -> np.ndarray:
    """Draws what follows each state until EOS, all rows at once; padding after it.

    Args:
        grammar: S states over V tokens.
        states: [N], where each text stands.
        steps: how many tokens to draw; a text longer than that is cut.
        rng: where randomness comes from.

    Returns:
        Tokens [N, steps] int32.
    """
    total = np.cumsum(grammar.probs, axis=1)
    total /= total[:, -1:]  # ends in exactly 1, so a draw below 1 never falls off the row
    tokens = np.full((len(states), steps), PAD, np.int32)
    states = np.array(states)
    for t in range(steps):
        going = np.flatnonzero(states != FINISHED)
        draws = rng.random(len(going))[:, None]
        now = (total[states[going]] <= draws).sum(axis=1)
        tokens[going, t] = now
        states[going] = grammar.next_state[states[going], now]
    return tokens


def draw_texts(grammar: Grammar, count: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """Whole texts with BOS and EOS, right-padded to `width`: tokens [count, width] int32."""
    return continue_texts(grammar, np.full(count, START), width, rng)


def run_states(grammar: Grammar, tokens: np.ndarray) -> np.ndarray:
    """Where the grammar stands before each token and at the end.

    Args:
        grammar: S states over V tokens.
        tokens: [N, L], starting with BOS; padding on either side changes nothing.

    Returns:
        States [N, L + 1]; -1 after a token that was impossible.
    """
    states = np.full((len(tokens), tokens.shape[1] + 1), START, np.int64)
    for t, token in enumerate(tokens.T):
        before = states[:, t]
        after = np.where(before < 0, -1, grammar.next_state[before, token])
        states[:, t + 1] = np.where(token == PAD, before, after)
    return states


def log_prob(grammar: Grammar, tokens: np.ndarray) -> np.ndarray:
    """log p(x) = sum_t log p(x_t | state_t) of texts that start with BOS; padding adds nothing.

    Args:
        grammar: S states over V tokens.
        tokens: [N, L]; without EOS it is the probability of the opening.

    Returns:
        [N] float64, -inf for a text the grammar cannot write.

    >>> from rlhf_jax.tasks.reviews.grammar import compile_grammar
    >>> coin = compile_grammar("A = heads | 3 tails")
    >>> np.exp(log_prob(coin, np.array([[1, 3, 2, 0], [1, 4, 2, 0], [1, 4, 4, 2]]))).tolist()
    [0.25, 0.75, 0.0]
    """
    states = run_states(grammar, tokens)[:, :-1]  # [N, L]
    prob = np.where(states < 0, 0.0, grammar.probs[states, tokens])
    with np.errstate(divide="ignore"):
        return np.log(np.where(tokens == PAD, 1.0, prob)).sum(axis=1)


def draw_openings(
    grammar: Grammar, count: int, lengths: tuple[int, int], rng: np.random.Generator
) -> np.ndarray:
    """BOS and the first few words of a text, their number uniform in `lengths` (both included).

    Args:
        grammar: its shortest text must be longer than `lengths[1]` words.
        count: openings N.
        lengths: fewest and most words.
        rng: where randomness comes from.

    Returns:
        Tokens [N, lengths[1] + 1] int32, right-padded.
    """
    tokens = draw_texts(grammar, count, lengths[1] + 1, rng)
    sizes = rng.integers(lengths[0], lengths[1] + 1, count)[:, None]
    return np.where(np.arange(lengths[1] + 1)[None] <= sizes, tokens, PAD)


def append_texts(openings: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Puts each continuation directly behind its opening.

    Args:
        openings: [N, P], right-padded.
        rest: [N, L], right-padded, L >= P.

    Returns:
        [N, L]; what does not fit is cut.

    >>> append_texts(np.array([[1, 7], [1, 0]]), np.array([[8, 2, 0, 0], [9, 9, 2, 0]])).tolist()
    [[1, 7, 8, 2], [1, 9, 9, 2]]
    """
    column = np.arange(rest.shape[1])[None]  # [1, L]
    source = column - (openings != PAD).sum(axis=1, keepdims=True)  # [N, L]
    moved = np.take_along_axis(rest, np.maximum(source, 0), axis=1)
    front = np.pad(openings, ((0, 0), (0, rest.shape[1] - openings.shape[1])))
    return np.where(source < 0, front, moved)
