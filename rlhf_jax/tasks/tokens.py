"""The special tokens every task shares, and token lists as padded arrays."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rlhf_jax.types import Sequences

SPECIALS = ("<pad>", "<bos>", "<eos>")
PAD, BOS, EOS = range(3)  # padding has its own id, so an end of text is never mistaken for it


def pad_rows(rows: Sequence[Sequence[int]], length: int, *, left: bool = False) -> Sequences:
    """Token lists as [N, length] arrays; no row may be longer.

    >>> pad_rows([[1, 5], [1]], 3).tokens.tolist()
    [[1, 5, 0], [1, 0, 0]]
    """
    sizes = np.array([len(row) for row in rows], np.int32).reshape(-1, 1)  # [N, 1]
    columns = np.arange(length, dtype=np.int32)[None]  # [1, L]
    mask = columns >= length - sizes if left else columns < sizes  # [N, L]
    tokens = np.full(mask.shape, PAD, np.int32)
    tokens[mask] = np.fromiter((t for row in rows for t in row), np.int32, int(sizes.sum()))
    return Sequences(tokens=tokens, mask=mask)  # pyright: ignore[reportArgumentType]


def closed(tokens: Sequence[int]) -> list[int]:
    """BOS, the tokens, EOS."""
    return [BOS, *tokens, EOS]


def chunk(tokens: Sequence[int], length: int) -> list[list[int]]:
    """A long text as pieces of at most `length` tokens, each after BOS; EOS only at its end.

    >>> chunk([7, 8, 9, 10], 4)
    [[1, 7, 8, 9], [1, 10, 2]]
    """
    body = [*tokens, EOS]
    return [[BOS, *body[i : i + length - 1]] for i in range(0, len(body), length - 1)]


def pack(pieces: Iterable[list[int]], length: int) -> list[list[int]]:
    """Joins neighbouring short pieces into rows of at most `length`, so few slots are padding.

    >>> pack([[1, 7, 2], [1, 5, 6, 7, 8, 9], [1, 8, 2], [1, 9, 2]], 6)
    [[1, 5, 6, 7, 8, 9], [1, 7, 2, 1, 8, 2], [1, 9, 2]]
    """
    full: list[list[int]] = []
    rows: list[list[int]] = [[]]
    for piece in pieces:
        if len(piece) == length:
            full.append(piece)
        elif len(rows[-1]) + len(piece) <= length:
            rows[-1] = rows[-1] + piece
        else:
            rows.append(piece)
    return full + [row for row in rows if row]
