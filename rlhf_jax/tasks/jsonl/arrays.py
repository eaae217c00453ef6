"""The two sides of a user's data, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.config import JsonlConfig
from rlhf_jax.tasks.jsonl.fit import Fitted, assign_sides, split
from rlhf_jax.tasks.tokens import chunk, pack, pad_rows
from rlhf_jax.types import PairBatch, Sequences


class Rows(NamedTuple):
    """Checked rows as tokens; prompts and texts keep their text, which the split goes by."""

    prompts: list[tuple[str, list[int]]]
    pairs: list[Fitted]
    texts: list[tuple[str, list[int]]]  # empty: learn from the chosen answers


class Side(NamedTuple):
    """What is trained on, or what is held out."""

    prompts: Sequences
    pairs: PairBatch
    text: Sequences


def both_sides(config: JsonlConfig, rows: Rows) -> tuple[Side, Side]:
    """Training and held-out arrays; no prompt is on both sides, whichever file it is in.

    Raises: DataError where a side would be too small.
    """
    sides: dict[str, bool] = {}
    groups = [pair.group for pair in rows.pairs]
    assign_sides(groups, config.heldout, config.data_seed, sides)
    pair_rows = split("preferences", "task.preferences", groups, sides)
    names = [text for text, _ in rows.prompts]
    assign_sides(names, config.heldout, config.data_seed, sides)
    prompt_rows = split("prompts", "task.prompts", names, sides)
    pairs = [[rows.pairs[i] for i in side] for side in pair_rows]
    prompts = [[rows.prompts[i][1] for i in side] for side in prompt_rows]
    texts = _texts(config, rows) if rows.texts else [[p.chosen for p in side] for side in pairs]

    def arrays(side: int) -> Side:
        return Side(
            pad_rows(prompts[side], config.max_prompt + 1, left=True),
            _pair_batch(pairs[side], config.text_length),
            pad_rows(texts[side], config.text_length),
        )

    return arrays(0), arrays(1)


def _texts(config: JsonlConfig, rows: Rows) -> list[list[list[int]]]:
    """Both sides of the text file, split by text, in pieces of `text_length`."""
    sides: dict[str, bool] = {}
    names = [text for text, _ in rows.texts]
    assign_sides(names, config.heldout, config.data_seed, sides)
    length = config.text_length
    return [
        pack((piece for i in side for piece in chunk(rows.texts[i][1], length)), length)
        for side in split("texts", "task.text", names, sides, least=1)
    ]


def _pair_batch(pairs: Sequence[Fitted], length: int) -> PairBatch:
    return PairBatch(
        chosen=pad_rows([p.chosen for p in pairs], length),
        rejected=pad_rows([p.rejected for p in pairs], length),
        margin=np.array([p.margin for p in pairs], np.float32),  # pyright: ignore[reportArgumentType]
        prompt_length=np.array([p.prompt_length for p in pairs], np.int32),  # pyright: ignore[reportArgumentType]
    )
