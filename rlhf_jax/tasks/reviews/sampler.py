"""Drawing texts from a grammar, and their probability."""

from __future__ import annotations

import numpy as np

from rlhf_jax.tasks.reviews.grammar import FINISHED, START, Grammar
from rlhf_jax.tasks.reviews.vocabulary import PAD


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


def draw_texts(
    grammar: Grammar, count: int, width: int, rng: np.random.Generator
) -> np.ndarray:
    """Whole texts with BOS and EOS, right-padded to `width`: tokens [count, width] int32."""
    return continue_texts(grammar, np.full(count, START), width, rng)


def run_states(grammar: Grammar, tokens: np.ndarray) -> np.ndarray:
    """The state after each prefix, [N, L + 1] from tokens [N, L]; -1 once a token is impossible."""
    states = np.full((len(tokens), tokens.shape[1] + 1), START, np.int64)
    for t, token in enumerate(tokens.T):
        before = states[:, t]
        states[:, t + 1] = np.where(before < 0, -1, grammar.next_state[before, token])
    return states


def log_prob(grammar: Grammar, tokens: np.ndarray) -> np.ndarray:
    """log p(x) = sum_t log p(x_t | state_t) of texts that start with BOS; padding adds nothing.

    Args:
        grammar: S states over V tokens.
        tokens: [N, L], right-padded; without EOS it is the probability of the opening.

    Returns:
        [N] float64, -inf for a text the grammar cannot write.
    """
    states = run_states(grammar, tokens)[:, :-1]  # [N, L]
    prob = np.where(states < 0, 0.0, grammar.probs[states, tokens])
    # Padding after an unfinished opening is not a word of it.
    prob = np.where((tokens == PAD) & (states >= 0), 1.0, prob)
    with np.errstate(divide="ignore"):
        return np.log(prob).sum(axis=1)
