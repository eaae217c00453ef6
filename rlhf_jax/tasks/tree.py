"""All completions of a task whose completions can be listed: their order, tokens and numbers."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from rlhf_jax.tasks.tokens import EOS, PAD
from rlhf_jax.types import Array


class Tree(NamedTuple):
    """The completions over `width` letters of exactly `length` tokens, or of fewer with an end.

    Letters are the ids `first` to `first + width - 1`. With `ends` a completion may stop by EOS
    after at least one letter; one of `length` letters has none. The prefixes of t letters are
    numbered as numbers to the base `width`, and completions by how many letters they have:
    first those of one letter and an end, ..., last those of `length` letters.

    >>> tree = Tree(width=2, length=2, ends=True)
    >>> tree.tokens().tolist()
    [[3, 2], [4, 2], [3, 3], [3, 4], [4, 3], [4, 4]]
    """

    width: int
    length: int
    ends: bool = False
    first: int = EOS + 1

    @property
    def stops(self) -> range:
        """How many letters a completion that ends by EOS may have."""
        return range(1, self.length if self.ends else 1)

    @property
    def size(self) -> int:
        """Number of completions."""
        return sum(self.width**t for t in self.stops) + self.width**self.length

    def offset(self, letters: int) -> int:
        """Number of the first completion that has so many letters."""
        return sum(self.width**t for t in self.stops if t < letters)

    def tokens(self) -> np.ndarray:
        """Tokens of all completions [S, T] int32, padded on the right."""
        rows = [self._of_length(t, [EOS]) for t in self.stops]
        return np.concatenate([*rows, self._of_length(self.length, [])])

    def mask(self) -> np.ndarray:
        """True on the tokens of all completions, EOS included, [S, T]."""
        return self.tokens() != PAD

    def prefixes(self, letters: int) -> np.ndarray:
        """Tokens of the prefixes of so many letters, [width^t, t] int32."""
        found = list(itertools.product(range(self.first, self.first + self.width), repeat=letters))
        return np.array(found, np.int32).reshape(len(found), letters)

    def _of_length(self, letters: int, end: list[int]) -> np.ndarray:
        body = self.prefixes(letters)
        rows = np.full((len(body), self.length), PAD, np.int32)
        rows[:, :letters] = body
        rows[:, letters : letters + len(end)] = end
        return rows

    def index(self, tokens: Array) -> Array:
        """Number of each completion: tokens [..., T] to int32 [...].

        What stands after the first EOS is not read.

        >>> tree = Tree(width=2, length=2, ends=True)
        >>> tree.index(jnp.asarray(tree.tokens())).tolist()
        [0, 1, 2, 3, 4, 5]
        """
        is_letter = (tokens >= self.first) & (tokens < self.first + self.width)
        alive = jnp.cumprod(is_letter.astype(jnp.int32), axis=-1)
        count = jnp.sum(alive, axis=-1)
        number = jnp.zeros(tokens.shape[:-1], jnp.int32)
        for t in range(self.length):
            digit = tokens[..., t].astype(jnp.int32) - self.first
            number = jnp.where(t < count, number * self.width + digit, number)
        offsets = jnp.array([self.offset(t) for t in range(self.length + 1)], jnp.int32)
        return offsets[count] + number
