"""A user's own prompts and preferences, read from JSON-lines files in the Hugging Face schema."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rlhf_jax.config import ConfigError, JsonlConfig
from rlhf_jax.tasks import tokenizer as tok
from rlhf_jax.tasks.jsonl.arrays import Rows, both_sides
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

__all__ = ["DataError", "make_jsonl"]


class Files(NamedTuple):
    """The user's checked rows: their values are text, Preference and text."""

    prompts: list[Row]
    preferences: list[Row]
    texts: list[Row]


def make_jsonl(config: JsonlConfig) -> Task:
    """The task of the files in `config`. All their rows are used, whatever `num_pairs` says.

    Raises: ConfigError for a setting or file that cannot work, DataError naming the bad lines.
    """
    _check(config)
    issues = Issues(config.skip_bad_rows)
    files = _read(config, issues, config.chat_template or DEFAULT_TEMPLATE)
    issues.settle()  # before a tokenizer is trained on rows that are no good
    codec = tok.make_codec(tok.train_bpe(_all_text(files), config.vocab_size))
    rows = _fit(config, files, codec.encode, issues)
    issues.settle()
    train, heldout = both_sides(config, rows)
    return Task(
        name="jsonl",
        codec=codec,
        train_text=train.text,
        heldout_text=heldout.text,
        train_pairs=train.pairs,
        heldout_pairs=heldout.pairs,
        train_prompts=train.prompts,
        eval_prompts=heldout.prompts,
        notes=(*_counts(config, rows), *issues.notes()),
    )


def _check(config: JsonlConfig) -> None:
    rows = 'a file of {"prompt": ...} lines'
    if not config.prompts:
        raise ConfigError("task.prompts", config.prompts, f"{rows} is needed")
    if not config.preferences:
        wanted = 'a file of {"prompt": ..., "chosen": ..., "rejected": ...} lines is needed'
        wanted += ": a reward model is fitted to it whatever task.reward is"
        raise ConfigError("task.preferences", config.preferences, wanted)
    if not 0.0 < config.heldout < 1.0:
        raise ConfigError("task.heldout", config.heldout, "a share above 0 and below 1")
    if config.max_prompt < 1:
        raise ConfigError("task.max_prompt", config.max_prompt, "at least 1")
    if config.text_length < config.max_prompt + 3:
        wanted = f"at least {config.max_prompt + 3}: BOS, task.max_prompt, one more, EOS"
        raise ConfigError("task.text_length", config.text_length, wanted)


def _read(config: JsonlConfig, issues: Issues, chat_template: str) -> Files:
    render = make_renderer(chat_template)
    prompts = issues.check(
        read_rows("task.prompts", config.prompts, issues), lambda row: parse_prompt(row, render)
    )
    rows = read_rows("task.preferences", config.preferences, issues)
    preferences = issues.check(rows, lambda row: parse_preference(row, render))
    return Files(prompts, preferences, _read_text(config.text, issues) if config.text else [])


def _read_text(name: str, issues: Issues) -> list[Row]:
    if not name.endswith((".jsonl", ".json")):
        return read_rows("task.text", name, issues, plain=True)
    rows = read_rows("task.text", name, issues)
    return issues.check(rows, lambda row: check_text("text", row.get("text")))


def _all_text(files: Files) -> list[str]:
    answers = [part for row in files.preferences for part in row.value.texts()]
    return [row.value for row in files.prompts] + answers + [row.value for row in files.texts]


def _fit(
    config: JsonlConfig, files: Files, encode: Callable[[str], list[int]], issues: Issues
) -> Rows:
    """Every row as tokens; what does not fit is an issue."""

    def prompt(text: str) -> tuple[str, list[int]]:
        return text, fit_prompt(encode(text), config.max_prompt)

    def pair(p: Preference) -> Fitted:
        # Without a prompt a pair is a group of its own.
        group = p.prompt if p.prompt.strip() else f"{p.chosen}\0{p.rejected}"
        answers = encode(p.chosen), encode(p.rejected)
        fitted = fit_pair(group, encode(p.prompt), *answers, config.text_length)
        return fitted._replace(margin=p.margin)

    return Rows(
        [row.value for row in issues.check(files.prompts, prompt)],
        [row.value for row in issues.check(files.preferences, pair)],
        [(row.value, encode(row.value)) for row in files.texts],
    )


def _counts(config: JsonlConfig, rows: Rows) -> tuple[str, ...]:
    """What was read, and what was cut to fit."""
    length, total = config.text_length, len(rows.pairs)
    prompts = sum(pair.prompt_cut for pair in rows.pairs)
    answers = sum(pair.answer_cut for pair in rows.pairs)
    notes = [f"{len(rows.prompts)} prompts, {total} preferences, {len(rows.texts)} texts read"]
    if prompts:
        notes.append(
            f"{prompts} of {total} preferences lost the start of their prompt to fit "
            f"task.text_length={length}"
        )
    if answers:
        notes.append(
            f"{answers} of {total} preferences lost the end of an answer longer than "
            f"task.text_length={length}"
        )
    return tuple(notes)
