"""Puts the task together: texts, openings, preference pairs, gold reward and known truths."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from rlhf_jax.config import ConfigError, ReviewsConfig
from rlhf_jax.tasks.protocol import Task
from rlhf_jax.tasks.reviews import annotator, exact, sampler
from rlhf_jax.tasks.reviews.films import film_grammar
from rlhf_jax.tasks.reviews.gold import film_machines, make_gold
from rlhf_jax.tasks.reviews.grammar import Grammar
from rlhf_jax.tasks.reviews.vocabulary import make_codec
from rlhf_jax.tasks.tokens import PAD, pad_rows
from rlhf_jax.types import PairBatch, ScoreFn, Sequences

NUM_HELDOUT_TEXTS, NUM_EVAL_PROMPTS, MAX_HELDOUT_PAIRS = 2000, 1024, 2048


def make_reviews(config: ReviewsConfig) -> Task:
    """Short film reviews from a weighted grammar, with a gold reward known in full.

    Everything is a function of `config.data_seed`; each part has its own stream, so asking for
    more texts changes no pair. Facts: `entropy_per_text` (nats), `expected_length` (predicted
    tokens of a text, EOS included), `entropy_per_token` (their ratio: the least cross-entropy
    per predicted token), `bayes_pair_accuracy` (best possible on the held-out pairs).

    Raises:
        ConfigError: a setting that cannot work, by its key.

    >>> task = make_reviews(ReviewsConfig(num_texts=4, num_pairs=2, num_prompts=3))
    >>> task.train_prompts.tokens.shape, task.codec.pad_id
    ((3, 7), 0)
    >>> 1.0 < task.facts["entropy_per_token"] < 1.6
    True
    """
    grammar = film_grammar()
    _check(config, grammar)
    gold = make_gold(film_machines())
    seeds = np.random.SeedSequence(config.data_seed).spawn(6)
    texts, heldout, pairs, heldout_pairs, prompts, evals = map(np.random.default_rng, seeds)
    num_heldout = min(config.num_pairs, MAX_HELDOUT_PAIRS)
    train_pairs, _ = _pairs(config, grammar, gold, config.num_pairs, pairs)
    eval_pairs, bayes = _pairs(config, grammar, gold, num_heldout, heldout_pairs)
    return Task(
        name="reviews",
        codec=make_codec(grammar.words),
        train_text=_texts(grammar, config.num_texts, texts),
        heldout_text=_texts(grammar, NUM_HELDOUT_TEXTS, heldout),
        train_pairs=train_pairs,
        heldout_pairs=eval_pairs,
        train_prompts=_prompts(config, grammar, config.num_prompts, prompts),
        eval_prompts=_prompts(config, grammar, NUM_EVAL_PROMPTS, evals),
        gold=gold,
        facts={**_facts(grammar), "bayes_pair_accuracy": bayes},
    )


def _check(config: ReviewsConfig, grammar: Grammar) -> None:
    for key in ("num_texts", "num_pairs", "num_prompts", "min_prompt"):
        value = getattr(config, key)
        if value < 1:
            raise ConfigError(f"task.{key}", value, "at least 1")
    if config.data_seed < 0:
        raise ConfigError("task.data_seed", config.data_seed, "at least 0")
    if config.max_prompt < config.min_prompt:
        accepted = f"at least task.min_prompt={config.min_prompt}"
        raise ConfigError("task.max_prompt", config.max_prompt, accepted)
    shortest, _ = exact.length_range(grammar)
    if config.max_prompt >= shortest:
        accepted = f"at most {shortest - 1}, since the shortest review has {shortest} words"
        raise ConfigError("task.max_prompt", config.max_prompt, accepted)
    temperature, flip_rate = config.annotator_temperature, config.flip_rate
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ConfigError("task.annotator_temperature", temperature, "a positive number")
    if not 0 <= flip_rate < 0.5:
        raise ConfigError("task.flip_rate", flip_rate, "at least 0 and below 0.5")


def _width(grammar: Grammar) -> int:
    return exact.length_range(grammar)[1] + 2  # BOS and EOS


def _texts(grammar: Grammar, count: int, rng: np.random.Generator) -> Sequences:
    return annotator.as_sequences(sampler.draw_texts(grammar, count, _width(grammar), rng))


def _prompts(
    config: ReviewsConfig, grammar: Grammar, count: int, rng: np.random.Generator
) -> Sequences:
    lengths = config.min_prompt, config.max_prompt
    openings = sampler.draw_openings(grammar, count, lengths, rng)
    return pad_rows([row[row != PAD] for row in openings], openings.shape[1], left=True)


def _pairs(
    config: ReviewsConfig,
    grammar: Grammar,
    gold: ScoreFn,
    count: int,
    rng: np.random.Generator,
) -> tuple[PairBatch, float]:
    """Labelled pairs, and the accuracy of the best predictor on them."""
    lengths = config.min_prompt, config.max_prompt
    a, b, sizes = annotator.draw_pairs(grammar, count, lengths, _width(grammar), rng)
    gold_a, gold_b = (_score(gold, text) for text in (a, b))
    temperature, flip_rate = config.annotator_temperature, config.flip_rate
    probs = annotator.preference_probs(gold_a, gold_b, temperature, flip_rate)
    return annotator.annotate(a, b, sizes, probs, rng), annotator.bayes_accuracy(probs)


def _score(gold: ScoreFn, tokens: np.ndarray) -> np.ndarray:
    return np.asarray(gold(jnp.asarray(tokens), jnp.asarray(tokens != PAD)))


def _facts(grammar: Grammar) -> dict[str, float]:
    entropy, length = exact.entropy_per_text(grammar), exact.expected_length(grammar)
    return {
        "entropy_per_text": entropy,
        "expected_length": length,
        "entropy_per_token": entropy / length,
    }
