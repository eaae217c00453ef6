"""Preference pairs: two continuations of one opening, ranked by a noisy Bradley-Terry annotator."""

from __future__ import annotations

import numpy as np

from rlhf_jax.tasks.reviews.grammar import Grammar
from rlhf_jax.tasks.reviews.sampler import (
    append_texts,
    continue_texts,
    draw_openings,
    run_states,
)
from rlhf_jax.tasks.tokens import PAD
from rlhf_jax.types import PairBatch, Sequences

MAX_REDRAWS = 100


def preference_probs(
    gold_a: np.ndarray, gold_b: np.ndarray, temperature: float, flip_rate: float
) -> np.ndarray:
    """Chance that the annotator puts a first, flips included.

    q = (1 - flip) s + flip (1 - s), s = sigmoid((gold_a - gold_b) / temperature)

    Args:
        gold_a, gold_b: [N].
        temperature: positive; large is undecided.
        flip_rate: chance in [0, 1/2) that the answer is turned round.

    Returns:
        [N] float64.

    >>> preference_probs(np.array([2.0]), np.array([2.0]), 1.0, 0.05).round(6).tolist()
    [0.5]
    """
    gap = (np.asarray(gold_a, np.float64) - np.asarray(gold_b, np.float64)) / temperature
    better = 0.5 * (1 + np.tanh(gap / 2))  # the sigmoid, without overflow
    return (1 - flip_rate) * better + flip_rate * (1 - better)


def bayes_accuracy(probs: np.ndarray) -> float:
    """Accuracy of the best predictor of the labels: mean of max(q, 1 - q).

    >>> bayes_accuracy(np.array([0.9, 0.2]))
    0.8500000000000001
    """
    return float(np.maximum(probs, 1 - probs).mean())


def draw_pairs(
    grammar: Grammar, count: int, lengths: tuple[int, int], width: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two different texts for each of `count` openings, right-padded.

    Args:
        grammar: S states over V tokens.
        count: pairs N.
        lengths: fewest and most words of an opening.
        width: columns of the result.
        rng: where randomness comes from.

    Returns:
        Tokens of the first and of the second texts, each [N, width] int32, and how many tokens
        their opening has, BOS included, [N] int32.

    Raises:
        ValueError: openings keep having a single continuation.
    """
    texts, sizes = np.zeros((2, count, width), np.int32), np.zeros(count, np.int32)
    same = np.arange(count)
    for _ in range(MAX_REDRAWS):
        texts[:, same], sizes[same] = _draw_two(grammar, len(same), lengths, width, rng)
        same = np.flatnonzero((texts[0] == texts[1]).all(axis=1))
        if not len(same):
            return texts[0], texts[1], sizes
    raise ValueError(f"{len(same)} openings gave the same text {MAX_REDRAWS} times over")


def _draw_two(
    grammar: Grammar, count: int, lengths: tuple[int, int], width: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    openings = draw_openings(grammar, count, lengths, rng)  # [N, P]
    states = run_states(grammar, openings)[:, -1]
    rests = [continue_texts(grammar, states, width, rng) for _ in range(2)]
    texts = np.stack([append_texts(openings, rest) for rest in rests])  # [2, N, width]
    return texts, (openings != PAD).sum(axis=1)


def annotate(
    text_a: np.ndarray,
    text_b: np.ndarray,
    prompt_length: np.ndarray,
    probs: np.ndarray,
    rng: np.random.Generator,
) -> PairBatch:
    """Draws the labels: a is chosen with probability `probs`.

    Args:
        text_a, text_b: tokens [N, L], right-padded.
        prompt_length: [N] int32, tokens of the opening they share.
        probs: [N], from `preference_probs`.
        rng: where randomness comes from.

    Returns:
        Pairs with margins 0.
    """
    first = (rng.random(len(probs)) < probs)[:, None]
    chosen, rejected = np.where(first, text_a, text_b), np.where(first, text_b, text_a)
    return PairBatch(
        chosen=as_sequences(chosen),
        rejected=as_sequences(rejected),
        margin=np.zeros(len(probs), np.float32),  # pyright: ignore[reportArgumentType]
        prompt_length=prompt_length,  # pyright: ignore[reportArgumentType]
    )


def as_sequences(tokens: np.ndarray) -> Sequences:
    """Tokens with their mask; right for both kinds of padding, since padding has its own id."""
    return Sequences(tokens=tokens, mask=tokens != PAD)  # pyright: ignore[reportArgumentType]
