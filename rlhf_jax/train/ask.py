"""Where prompts come from and where answers go: a file, the command line, or a conversation."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rlhf_jax.config import ConfigError
from rlhf_jax.io.answers import print_answers
from rlhf_jax.io.console import note
from rlhf_jax.io.run_dir import write_jsonl
from rlhf_jax.train.answer import Answer, Answerer, answer

GREETING = "Type the beginning of a text; an empty line or quit ends."


def read_prompts(path: Path) -> list[str]:
    """One prompt a line, empty lines skipped; of a .jsonl file the field `prompt` of each line.

    Raises:
      ConfigError: no such file, no prompt in it, or a line that is not what its name promises.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file in UTF-8"
        raise ConfigError("prompts", str(path), f"cannot be read: {reason}") from None
    numbered = [(n, line.strip()) for n, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ConfigError("prompts", str(path), "has no prompt; give one a line")
    if path.suffix != ".jsonl":
        return [line for _, line in numbered]
    return [prompt_of(path, n, line) for n, line in numbered]


def prompt_of(path: Path, number: int, line: str) -> str:
    """The prompt on one line of a .jsonl file."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        row = None
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise ConfigError("prompts", str(path), f'line {number} is not {{"prompt": "..."}}')
    return row["prompt"]


def answer_prompts(answerer: Answerer, prompts: Sequence[str], output: Path | None) -> None:
    """Answers given prompts, prints the answers and writes them to `output`."""
    keep(answerer, answer(answerer, prompts), [], output)


def converse(answerer: Answerer, output: Path | None, read: Callable[[str], str] = input) -> None:
    """Answers prompts typed by the user until an empty line, `quit` or the end of the input."""
    note(GREETING)
    answers: list[Answer] = []
    turn = 0
    while True:
        try:
            prompt = read("prompt> ").strip()
        except (EOFError, KeyboardInterrupt):
            note("")  # the terminal's cursor stands behind "prompt> "
            return
        if prompt in ("", "quit"):
            return
        try:
            found = answer(answerer, [prompt], turn)
        except ConfigError as error:
            note(f"error: {error}")
            continue
        turn += 1
        keep(answerer, found, answers, output)


def keep(
    answerer: Answerer, found: Sequence[Answer], earlier: list[Answer], output: Path | None
) -> None:
    """Prints new answers, adds them to the earlier ones and writes them all."""
    print_answers(found, name=answerer.name)
    earlier.extend(found)
    if output is not None:
        write_jsonl(output, earlier)
