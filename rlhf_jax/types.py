"""Array aliases and the records that travel between the rooms of the package."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

Array = jax.Array
Key = jax.Array
Params = dict[str, Any]
Metrics = dict[str, Array]
T = TypeVar("T", bound=type)


@typing.dataclass_transform(frozen_default=True, kw_only_default=True)
def record(cls: T) -> T:
    """Makes a frozen keyword-only dataclass that is also a pytree; the one way state is written."""
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    return jax.tree_util.register_dataclass(cls)


class SpecialTokens(NamedTuple):
    """Ids of the tokens that are not text. All differ: padding is never the end of a sequence."""

    pad: int
    bos: int
    eos: int


@record
class WeightedMean:
    """A mean kept as its parts, so accumulation and sharding cannot change its value."""

    total: Array
    weight: Array

    @staticmethod
    def of(x: Array, mask: Array) -> WeightedMean:
        """Sum of `x` over `mask` with the number of masked-in entries."""
        weight = jnp.broadcast_to(mask, x.shape).astype(x.dtype)
        return WeightedMean(total=jnp.sum(jnp.where(mask, x, 0)), weight=jnp.sum(weight))

    def value(self) -> Array:
        """The mean; 0 where nothing was counted."""
        return self.total / jnp.maximum(self.weight, 1)


@record
class Sequences:
    """Whole texts, padded on the right unless said otherwise."""

    tokens: Array  # [N, L] int32
    mask: Array  # [N, L] bool, True on real tokens (BOS and EOS included)


@record
class PairBatch:
    """Preference pairs: two texts each with its prompt, the better one first."""

    chosen: Sequences  # [N, L]
    rejected: Sequences  # [N, L]
    margin: Array  # [N] float32, how much better the annotator found the chosen one; 0 if unknown
    prompt_length: Array  # [N] int32, tokens of the prompt both texts begin with, BOS included
    confidence: Array | None = None  # [N] float32, chance that the first is better; None: all 1


@record
class TextRollout:
    """Prompts (left-padded) and what the behaviour policy answered (right-padded)."""

    prompt_tokens: Array  # [B, P] int32
    prompt_mask: Array  # [B, P] bool
    completion_tokens: Array  # [B, T] int32, pad after the end of the sequence
    completion_mask: Array  # [B, T] bool, True up to and with the end-of-sequence token
    behavior_log_probs: Array  # [B, T] float32, at the sampling temperature, without filters

    def tokens(self) -> Array:
        """Prompt and completion joined, [B, P + T]."""
        return jnp.concatenate([self.prompt_tokens, self.completion_tokens], axis=1)

    def mask(self) -> Array:
        """Mask of `tokens()`, [B, P + T]."""
        return jnp.concatenate([self.prompt_mask, self.completion_mask], axis=1)


# In-graph reward: (tokens [B, L], mask [B, L]) -> scores [B]. Padding may stand on either side.
ScoreFn = Callable[[Array, Array], Array]
