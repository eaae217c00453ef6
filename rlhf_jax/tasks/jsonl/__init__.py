"""A user's own prompts and preferences, read from JSON-lines files in the Hugging Face schema."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from rlhf_jax.config import ConfigError, JsonlConfig
from rlhf_jax.tasks import tokenizer as tok
from rlhf_jax.tasks.jsonl.chat import (
    DEFAULT_TEMPLATE,
    Preference,
    make_renderer,
    parse_preference,
    parse_prompt,
)
from rlhf_jax.tasks.jsonl.fit import Fitted, fit_pair, fit_prompt
from rlhf_jax.tasks.jsonl.rows import DataError, Issues, Row, check_text, read_rows
from rlhf_jax.tasks.protocol import Task
from rlhf_jax.types import PairBatch, Sequences

__all__ = ["DataError", "make_jsonl"]


class Files(NamedTuple):
    """The user's rows, checked and as text; each prompt and preference keeps its place."""

    prompts: list[tuple[Row, str]]
    preferences: list[tuple[Row, Preference]]
    texts: list[str]


def make_jsonl(config: JsonlConfig, chat_template: str = DEFAULT_TEMPLATE) -> Task:
    """The task of the files in `config`.

    Raises: ConfigError for a setting or file that cannot work, DataError naming bad lines.
    """
    _check(config)
    issues = Issues(config.skip_bad_rows)
    files = _read(config, issues, chat_template)
    issues.settle()  # before the tokenizer: these need no training to be found
    bpe = tok.train_bpe(_all_text(files), config.vocab_size)
    encode = lambda text: bpe.encode(text, add_special_tokens=False).ids  # noqa: E731
    prompts = _fit(files.prompts, issues, lambda p: fit_prompt(encode(p), config.max_prompt))
    pairs = _fit(
        files.preferences,
        issues,
        lambda p: fit_pair(encode(p.prompt), encode(p.chosen), encode(p.rejected), config.text_length),
    )
    issues.settle()
    return _assemble(config, files.texts, prompts, pairs, bpe, issues)
