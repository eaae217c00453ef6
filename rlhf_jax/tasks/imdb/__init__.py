"""Real film reviews, and single human votes on critics' snippets as preference pairs."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from rlhf_jax.config import ConfigError, ImdbConfig
from rlhf_jax.tasks import tokenizer as tok
from rlhf_jax.tasks.imdb.sources import (
    RATINGS,
    REVIEWS,
    Review,
    Snippet,
    read_reviews,
    read_snippets,
    text_key,
)
from rlhf_jax.tasks.imdb.votes import Votes, bayes_accuracy, draw_votes, split_groups
from rlhf_jax.tasks.judge import Judge, accuracy, cached_judge
from rlhf_jax.tasks.packages import fetch
from rlhf_jax.tasks.protocol import Task
from rlhf_jax.tasks.tokens import BOS, EOS, PAD, chunk, closed, pack, pad_rows
from rlhf_jax.types import PairBatch, Sequences

HELDOUT_REVIEWS = 0.1
HELDOUT_SNIPPETS = 0.15
HELDOUT_PAIRS = 4096
_BPE_TEXTS = 8000  # enough reviews for a few thousand merges
_WINDOW = 30  # tokens of the human windows the judge is checked on


class Split(NamedTuple):
    """One side of the data; no text has a copy on the other side."""

    reviews: list[Review]
    review_tokens: list[list[int]]
    snippets: list[Snippet]
    snippet_tokens: list[list[int]]


def make_imdb(config: ImdbConfig) -> Task:
    """The task from its two archives, fetched on the first call.

    Raises: PackageError where an archive cannot be had, ConfigError where lengths cannot work.
    """
    _check(config)
    reviews = read_reviews(fetch(REVIEWS, config.cache_dir))
    snippets = read_snippets(fetch(RATINGS, config.cache_dir))
    return build_imdb(config, reviews, snippets)


def build_imdb(config: ImdbConfig, reviews: list[Review], snippets: list[Snippet]) -> Task:
    """`make_imdb` on given rows."""
    (train, heldout), bpe = _split(config, reviews, snippets)
    texts, labels = [r.text for r in train.reviews], [r.positive for r in train.reviews]
    seed, heldout_pairs = config.data_seed, min(config.num_pairs, HELDOUT_PAIRS)
    judge = cached_judge(texts, labels, seed=seed, cache_dir=config.cache_dir)
    # A stream for each use: asking for more pairs changes no text, prompt or held-out vote.
    draws = [np.random.default_rng([seed, i]) for i in range(1, 9)]
    train_votes = draw_votes([s.ratings for s in train.snippets], config.num_pairs, draws[0])
    heldout_votes = draw_votes([s.ratings for s in heldout.snippets], heldout_pairs, draws[1])
    bayes = bayes_accuracy([s.ratings for s in heldout.snippets], heldout_votes)
    return Task(
        name="imdb",
        codec=tok.make_codec(bpe),
        train_text=_texts(config, train, draws[2]),
        heldout_text=_texts(config, heldout, draws[3]),
        train_pairs=_pairs(config, train, train_votes, draws[7]),
        heldout_pairs=_pairs(config, heldout, heldout_votes),
        train_prompts=_prompts(config, train, draws[4]),
        eval_prompts=_prompts(config, heldout, draws[5]),
        judge=judge,
        facts={"bayes_pair_accuracy": bayes, **_judge_facts(judge, heldout, bpe, draws[6])},
        notes=(_summary(train, heldout),),
    )


def _check(config: ImdbConfig) -> None:
    if not 1 <= config.min_prompt <= config.max_prompt:
        raise ConfigError("task.min_prompt", config.min_prompt, "from 1 to task.max_prompt")
    for key in ("text_length", "pair_length"):
        if getattr(config, key) < config.max_prompt + 3:
            wanted = f"at least {config.max_prompt + 3}: BOS, task.max_prompt, one more, EOS"
            raise ConfigError(f"task.{key}", getattr(config, key), wanted)
    for key in ("num_pairs", "num_prompts"):
        if getattr(config, key) < 1:
            raise ConfigError(f"task.{key}", getattr(config, key), "at least 1")


def _split(
    config: ImdbConfig, reviews: list[Review], snippets: list[Snippet]
) -> tuple[tuple[Split, Split], Tokenizer]:
    """Both sides, tokenized. The tokenizer has seen no held-out text."""
    rng = np.random.default_rng([config.data_seed, 0])
    snippet_keys = [text_key(s.text) for s in snippets]
    held_snippets = split_groups(snippet_keys, HELDOUT_SNIPPETS, rng)
    secret = {key for key, held in zip(snippet_keys, held_snippets) if held}
    reviews = [r for r in reviews if text_key(r.text) not in secret]
    held_reviews = split_groups([text_key(r.text) for r in reviews], HELDOUT_REVIEWS, rng)
    kept = [r.text for r, held in zip(reviews, held_reviews) if not held][:_BPE_TEXTS]
    kept += [s.text for s, held in zip(snippets, held_snippets) if not held]
    bpe = tok.cached_bpe(kept, config.vocab_size, config.cache_dir)
    review_tokens = tok.cached_ids(bpe, [r.text for r in reviews], config.cache_dir)
    snippet_tokens = tok.cached_ids(bpe, [s.text for s in snippets], config.cache_dir)

    def side(held: bool) -> Split:
        r, s = np.flatnonzero(held_reviews == held), np.flatnonzero(held_snippets == held)
        return Split(
            [reviews[i] for i in r],
            [review_tokens[i] for i in r],
            [snippets[i] for i in s],
            [snippet_tokens[i] for i in s],
        )

    return (side(False), side(True)), bpe


def _texts(config: ImdbConfig, split: Split, rng: np.random.Generator) -> Sequences:
    """Reviews in chunks and whole snippets, packed into rows of `text_length`."""
    length = config.text_length
    bodies = split.review_tokens + split.snippet_tokens
    pieces = [piece for body in bodies for piece in chunk(body, length)]
    rows = pack((pieces[i] for i in rng.permutation(len(pieces))), length)
    return pad_rows([rows[i] for i in rng.permutation(len(rows))], length)


def _pairs(
    config: ImdbConfig, split: Split, votes: Votes, rng: np.random.Generator | None = None
) -> PairBatch:
    """BOS, snippet, EOS, without a prompt; a snippet too long loses its end but keeps its EOS.

    With `rng` every other text goes without its EOS, both sides of a pair alike: a reward model
    that has only seen finished texts cannot be trusted on completions cut at a fixed length.
    """
    length = config.pair_length
    table = pad_rows([closed(t[: length - 2]) for t in split.snippet_tokens], length)
    tokens, mask = np.asarray(table.tokens), np.asarray(table.mask)
    number = len(votes.margin)
    unfinished = np.zeros(number, bool) if rng is None else rng.random(number) < 0.5

    def take(rows: np.ndarray) -> Sequences:
        cut = unfinished[:, None] & (tokens[rows] == EOS)
        return Sequences(
            tokens=np.where(cut, PAD, tokens[rows]),  # pyright: ignore[reportArgumentType]
            mask=mask[rows] & ~cut,  # pyright: ignore[reportArgumentType]
        )

    return PairBatch(
        chosen=take(votes.chosen),
        rejected=take(votes.rejected),
        margin=votes.margin,  # pyright: ignore[reportArgumentType]
        prompt_length=np.ones(number, np.int32),  # pyright: ignore[reportArgumentType]
    )


def _prompts(config: ImdbConfig, split: Split, rng: np.random.Generator) -> Sequences:
    """BOS and the opening of a review, of random length; each review is used once."""
    longer = [t for t in split.review_tokens if len(t) > config.max_prompt]
    order = rng.permutation(len(longer))[: config.num_prompts]
    sizes = rng.integers(config.min_prompt, config.max_prompt + 1, len(order))
    rows = [[BOS, *longer[i][:size]] for i, size in zip(order, sizes)]
    return pad_rows(rows, config.max_prompt + 1, left=True)


def _judge_facts(
    judge: Judge, heldout: Split, bpe: Tokenizer, rng: np.random.Generator
) -> dict[str, float]:
    """How far the judge can be trusted, on reviews it was not fitted to."""
    labels = [r.positive for r in heldout.reviews]
    starts = [int(rng.integers(0, max(1, len(t) - _WINDOW + 1))) for t in heldout.review_tokens]
    windows = [t[i : i + _WINDOW] for t, i in zip(heldout.review_tokens, starts)]
    short = bpe.decode_batch(windows)
    return {
        "judge_accuracy": accuracy(judge, [r.text for r in heldout.reviews], labels),
        "judge_accuracy_short": accuracy(judge, short, labels),
        "judge_positive_rate": float(np.mean(np.array(judge(short)) > 0.5)),
    }


def _summary(train: Split, heldout: Split) -> str:
    return (
        f"{len(train.reviews)} reviews and {len(train.snippets)} rated snippets to train on, "
        f"{len(heldout.reviews)} and {len(heldout.snippets)} held out"
    )
