"""Words to ids and back: three special tokens, then the grammar's words in alphabetical order."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from rlhf_jax.tasks.protocol import TextCodec
from rlhf_jax.tasks.tokens import BOS, EOS, PAD, SPECIALS


class UnknownWordError(ValueError):
    """A word outside the closed vocabulary."""


def make_codec(words: Sequence[str]) -> TextCodec:
    """Codec over a closed vocabulary: ids are positions in `words`, text is words and spaces.

    `encode(decode(ids)) == ids` for ids without special tokens.

    Args:
        words: every word by id, [V], starting with `SPECIALS`.

    Raises:
        UnknownWordError: from `encode`, naming the word and the nearest known ones; special
            tokens cannot be written in text.

    >>> codec = make_codec([*SPECIALS, "fine", "it", "was"])
    >>> codec.encode("it was fine"), codec.decode([1, 4, 5, 3, 2, 0])
    ([4, 5, 3], 'it was fine')
    """
    ids = {word: i for i, word in enumerate(words) if word not in SPECIALS}

    def encode(text: str) -> list[int]:
        return [_lookup(ids, word) for word in text.split()]

    def decode(tokens: Sequence[int]) -> str:
        return " ".join(words[int(i)] for i in tokens if int(i) >= len(SPECIALS))

    return TextCodec(encode, decode, len(words), PAD, BOS, EOS)


def _lookup(ids: dict[str, int], word: str) -> int:
    if word in ids:
        return ids[word]
    near = difflib.get_close_matches(word.lower(), ids, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "no known word is close"
    raise UnknownWordError(f"{word!r} is not among the task's {len(ids)} words; {hint}")
