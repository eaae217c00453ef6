"""Settings of the text tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Optional

from rlhf_jax.config.fields import (
    BELOW_HALF,
    INSIDE_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    SEED,
    Range,
    choice,
    number,
)

LETTERS = Range("must be from 2 to 26", lambda x: 2 <= x <= 26)


@dataclass(frozen=True)
class TaskConfig:
    """What every text task has."""

    name: str = "reviews"
    # reward_model (learned from the task's pairs), gold (the task's own) or package.module:function
    reward: str = "reward_model"
    data_seed: int = number(0, SEED)
    num_pairs: int = number(8192, POSITIVE)  # training pairs to draw; jsonl uses all its rows
    num_prompts: int = number(4096, POSITIVE)
    named_rewards: ClassVar[tuple[str, ...]] = ()  # beside gold and the reward model


@dataclass(frozen=True)
class ReviewsConfig(TaskConfig):
    """The embedded task: short film reviews from a weighted grammar with a gold automaton."""

    num_texts: int = number(20000, POSITIVE)
    annotator_temperature: float = number(1.0, POSITIVE)
    flip_rate: float = number(0.05, BELOW_HALF)
    min_prompt: int = number(2, POSITIVE)  # tokens of an opening, BOS not counted
    max_prompt: int = number(6, POSITIVE)


@dataclass(frozen=True)
class ImdbConfig(TaskConfig):
    """Real film reviews, and human ratings of snippets as preference pairs."""

    name: str = "imdb"
    vocab_size: int = number(4096, POSITIVE)
    text_length: int = number(128, POSITIVE)  # tokens in one training text
    pair_length: int = number(64, POSITIVE)
    min_prompt: int = number(4, POSITIVE)
    max_prompt: int = number(12, POSITIVE)
    cache_dir: Optional[str] = None  # default: the user's cache directory


@dataclass(frozen=True)
class JsonlConfig(TaskConfig):
    """A user's own files: prompts and preferences in the Hugging Face schema."""

    name: str = "jsonl"
    prompts: str = ""
    preferences: str = ""
    text: Optional[str] = None  # one text a line, or {"text"} lines; default: prompt + chosen
    vocab_size: int = number(4096, POSITIVE)
    max_prompt: int = number(32, POSITIVE)
    text_length: int = number(128, POSITIVE)
    heldout: float = number(0.1, INSIDE_ONE)  # share of prompts and pairs kept for evaluation
    skip_bad_rows: bool = False
    chat_template: Optional[str] = None  # a Jinja template for message lists


@dataclass(frozen=True)
class EnumerableConfig(TaskConfig):
    """A task over a few letters whose completions can all be listed: its optimum is known."""

    name: str = "token_tree"
    reward: str = "gold"
    instance: int = number(0, NOT_NEGATIVE)  # 0 to 7 are those of the report card
    num_prompts: int = number(8, POSITIVE)  # all different
    num_texts: int = number(16384, POSITIVE)
    letters: int = number(4, LETTERS)
    length: int = number(6, POSITIVE)  # most tokens of a completion
    ends: ClassVar[bool] = False  # whether completions may be shorter and end with EOS
    concentration: float = number(1.0, POSITIVE)  # of the source's rows; small is near certain
    # Scale of the reward; of bandit and token_tree its standard deviation under the source.
    reward_sd: float = number(1.0, POSITIVE)
    labels: str = choice("sampled", "exact")  # of the pairs: an annotator's, or their chances
    annotator_temperature: float = number(1.0, POSITIVE)
    flip_rate: float = number(0.0, BELOW_HALF)


@dataclass(frozen=True)
class TokenTreeConfig(EnumerableConfig):
    """E1: six letters of four; rewards of letters, neighbours and of whole texts."""


@dataclass(frozen=True)
class BanditConfig(EnumerableConfig):
    """E0: one letter of eight in each of four contexts."""

    name: str = "bandit"
    num_prompts: int = number(4, POSITIVE)
    letters: int = number(8, LETTERS)
    length: int = number(1, POSITIVE)


@dataclass(frozen=True)
class VariableLengthConfig(EnumerableConfig):
    """E2: up to seven of three letters and an end; right texts have every length from 1 on."""

    name: str = "variable_length"
    letters: int = number(3, LETTERS)
    length: int = number(8, Range("must be at least 2", lambda x: x >= 2))
    stop: float = number(0.25, INSIDE_ONE)  # chance of an end after each letter
    ends = True


@dataclass(frozen=True)
class RepetitionConfig(EnumerableConfig):
    """E3: letters pay once and repeating costs, which a model that counts letters misses.

    `reward` may be `counts` or `presence`, fitted to the task's pairs, and `gaussian` or
    `heavy_tail`, the truth with noise, beside `gold` and `reward_model`.
    """

    name: str = "repetition"
    named_rewards = ("counts", "presence", "gaussian", "heavy_tail")
    letters: int = number(5, LETTERS)


@dataclass(frozen=True)
class VerifiableConfig(EnumerableConfig):
    """E4: problems with a right answer: parity, sums modulo the letters, reversal."""

    name: str = "verifiable"
    num_prompts: int = number(9, POSITIVE)


@dataclass(frozen=True)
class AutomatonConfig(TaskConfig):
    """E6: long texts of a Markov chain, paid by a finite automaton; the optimum by recursion."""

    name: str = "automaton"
    reward: str = "gold"
    instance: int = number(0, NOT_NEGATIVE)  # 0 to 7 are those of the report card
    num_prompts: int = number(8, POSITIVE)  # all different
    num_texts: int = number(16384, POSITIVE)
    letters: int = number(16, Range("must be from 2 to 64", lambda x: 2 <= x <= 64))
    length: int = number(32, Range("must be from 1 to 128", lambda x: 1 <= x <= 128))
    # Letters that the next one depends on; a prompt has as many.
    order: int = number(1, Range("must be 1 or 2", lambda x: x in (1, 2)))
    concentration: float = number(0.5, POSITIVE)  # of the chain's rows; small is near certain
    states: int = number(4, Range("must be from 1 to 64", lambda x: 1 <= x <= 64))
    reward_sd: float = number(1.0, POSITIVE)  # standard deviation of the reward under the chain
    annotator_temperature: float = number(1.0, POSITIVE)
    flip_rate: float = number(0.0, BELOW_HALF)
