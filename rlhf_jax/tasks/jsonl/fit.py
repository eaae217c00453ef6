"""Token lengths: what fits, what is cut and where, and which side of the split a row is on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rlhf_jax.tasks.jsonl.rows import BadRow, DataError
from rlhf_jax.tasks.tokens import BOS, closed


class Fitted(NamedTuple):
    """A preference as whole token rows, and what had to be cut for it."""

    group: str  # the prompt; rows of one group stay on one side of the split
    chosen: list[int]
    rejected: list[int]
    prompt_length: int  # tokens of the prompt that both open with, BOS included
    prompt_cut: bool = False
    answer_cut: bool = False
    margin: float = 0.0  # how much better the chosen answer is, 0 if unknown


def fit_prompt(tokens: list[int], longest: int) -> list[int]:
    """BOS and the prompt. Raises: BadRow where it has more than `longest` tokens."""
    if len(tokens) > longest:
        wanted = f"at most task.max_prompt={longest} are accepted"
        raise BadRow(f'"prompt" has {len(tokens)} tokens; {wanted}')
    return [BOS, *tokens]


def fit_pair(
    group: str, prompt: list[int], chosen: list[int], rejected: list[int], length: int
) -> Fitted:
    """BOS, prompt, answer, EOS in at most `length` tokens, both with the same part of the prompt.

    The prompt loses its start first; only an answer longer than `length` alone loses its end.
    Raises: BadRow where nothing would be left of the difference between the answers.

    >>> fit_pair("", [5, 6, 7], [8], [9, 9], 6)[1:6]
    ([1, 6, 7, 8, 2], [1, 6, 7, 9, 9, 2], 3, True, False)
    """
    room = length - 2  # BOS and EOS
    longest = max(len(chosen), len(rejected))
    keep = max(0, min(len(prompt), room - longest))
    one, two = chosen[:room], rejected[:room]
    if one == two:
        wanted = "answers that differ earlier, or a larger task.text_length, are accepted"
        raise BadRow(f'"chosen" and "rejected" are the same for {room} tokens; {wanted}')
    opening = prompt[len(prompt) - keep :]
    rows = closed(opening + one), closed(opening + two)
    return Fitted(group, *rows, 1 + keep, prompt_cut=keep < len(prompt), answer_cut=longest > room)


def assign_sides(names: Iterable[str], share: float, seed: int, sides: dict[str, bool]) -> None:
    """Adds to `sides` which names are held out: about `share` of them, at least one on each side.

    Names already there keep their side. The order of the rows does not matter.
    """
    unique = set(names)
    fresh = sorted(unique - sides.keys(), key=lambda name: _rank(name, seed))
    wanted = min(max(1, round(share * len(unique))), len(unique) - 1)
    wanted -= sum(sides[name] for name in unique & sides.keys())
    sides.update((name, i < wanted) for i, name in enumerate(fresh))


def split(
    what: str, key: str, names: Sequence[str], sides: dict[str, bool], least: int = 2
) -> tuple[list[int], list[int]]:
    """Rows to train on and rows held out.

    Raises: DataError where fewer than `least` rows are left to train on, or none is held out.
    """
    train = [i for i, name in enumerate(names) if not sides[name]]
    heldout = [i for i, name in enumerate(names) if sides[name]]
    if len(train) < least or not heldout:
        count = len(set(names))
        raise DataError(
            f"{key}: {len(names)} usable {what} with {count} different prompts or texts leave "
            f"{len(train)} to train on and {len(heldout)} held out; "
            f"at least {least} and 1 are needed"
        )
    return train, heldout


def _rank(name: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{name}".encode()).digest()
