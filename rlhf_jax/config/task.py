"""Settings of the text tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from rlhf_jax.config.fields import BELOW_HALF, INSIDE_ONE, POSITIVE, SEED, number


@dataclass(frozen=True)
class TaskConfig:
    """What every text task has."""

    name: str = "reviews"
    # reward_model (learned from the task's pairs), gold (the task's own) or package.module:function
    reward: str = "reward_model"
    data_seed: int = number(0, SEED)
    num_pairs: int = number(8192, POSITIVE)  # training pairs to draw; jsonl uses all its rows
    num_prompts: int = number(4096, POSITIVE)


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
