"""Preference pairs with what the frozen reference thinks of them, computed once before training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp

from rlhf_jax.models.functional import Model
from rlhf_jax.ops.distributions import log_probs_of
from rlhf_jax.ops.masked import masked_mean, masked_sum
from rlhf_jax.train.batches import in_batches, num_rows
from rlhf_jax.types import Array, PairBatch, Params, Sequences, record

REFERENCE_FREE = ("orpo", "simpo")  # losses that read no reference


@record
class PreferenceData:
    """What a direct preference loss is fitted to; all rows in the same order."""

    pairs: PairBatch
    ref_chosen: Array  # [N] nats, log-prob of the chosen completion; 0 if no reference is needed
    ref_rejected: Array  # [N]
    mismatched: PreferenceData | None = None  # of each prompt and its neighbour's texts, for kto


def completion_sums(
    model: Model, params: Params, texts: Sequences, prompt_length: Array
) -> tuple[Array, Array]:
    """Log-probability of each completion: the sum over its tokens and their mean.

    A completion is every real token after the prompt, the end of sequence included. The logits are
    those of the model, at temperature 1.

    Args:
        model: a language model of V tokens.
        params: its parameters.
        texts: [B, L], padded on any side.
        prompt_length: int32 [B], tokens of the prompt, BOS included.

    Returns:
        Sums and means, [B] each, in nats; 0 where a text has nothing after its prompt.
    """
    window = (0, texts.tokens.shape[1] - 1)
    logits = model.apply(params, texts.tokens, texts.mask, window=window).logits
    log_probs = log_probs_of(logits, texts.tokens[:, 1:])  # [B, L - 1]
    counts = jnp.cumsum(texts.mask, axis=1, dtype=jnp.int32)
    completion = (texts.mask & (counts > prompt_length[:, None]))[:, 1:]
    return masked_sum(log_probs, completion, axis=1), masked_mean(log_probs, completion, axis=1)


def pair_log_probs(
    model: Model, params: Params, pairs: PairBatch, *, mean: bool = False
) -> tuple[Array, Array]:
    """Log-probs of the chosen and rejected completions, [B] each, in one forward pass."""
    join = lambda a, b: jnp.concatenate([a, b])
    both: Sequences = jax.tree.map(join, pairs.chosen, pairs.rejected)
    sums, means = completion_sums(model, params, both, join(*[pairs.prompt_length] * 2))
    chosen, rejected = jnp.split(means if mean else sums, 2)
    return chosen, rejected


def make_reference_log_probs(model: Model, batch_size: int = 64, *, mean: bool = False):
    """`(params, pairs) -> (chosen [N], rejected [N])`, log-probs over all rows in batches."""

    def log_probs(params: Params, pairs: PairBatch) -> tuple[Array, Array]:
        one = lambda batch: pair_log_probs(model, params, batch, mean=mean)
        found = jax.lax.map(one, in_batches(pairs, batch_size))
        chosen, rejected = (x.reshape(-1)[: num_rows(pairs)] for x in found)
        return chosen, rejected

    return log_probs


def make_data(
    model: Model, loss: str, batch_size: int = 64
) -> Callable[[Params, PairBatch], PreferenceData]:
    """`(reference, pairs) -> PreferenceData` with what the loss of that name needs."""
    log_probs = make_reference_log_probs(model, batch_size)

    def with_reference(reference: Params, pairs: PairBatch) -> PreferenceData:
        chosen, rejected = log_probs(reference, pairs)
        return PreferenceData(pairs=pairs, ref_chosen=chosen, ref_rejected=rejected)

    def prepare(reference: Params, pairs: PairBatch) -> PreferenceData:
        if loss in REFERENCE_FREE:
            zeros = jnp.zeros(num_rows(pairs), jnp.float32)
            return PreferenceData(pairs=pairs, ref_chosen=zeros, ref_rejected=zeros)
        data = with_reference(reference, pairs)
        if loss != "kto":
            return data
        mismatched = with_reference(reference, mismatched_pairs(pairs))
        return dataclasses.replace(data, mismatched=mismatched)

    return prepare


def mismatched_pairs(pairs: PairBatch) -> PairBatch:
    """Each prompt with the completions of the next row, the last one with those of the first.

    The widths stay, so a completion behind a longer prompt than its own may lose its end. Where
    prompts are a BOS and nothing else this is the next row.
    """
    return PairBatch(
        chosen=mismatched_texts(pairs.chosen, pairs.prompt_length),
        rejected=mismatched_texts(pairs.rejected, pairs.prompt_length),
        margin=jnp.zeros_like(pairs.margin),
        prompt_length=jnp.asarray(pairs.prompt_length),
    )


def mismatched_texts(texts: Sequences, prompt_length: Array) -> Sequences:
    """The prompt of each row [N, L] before the completion of the next; padded on the right.

    >>> tokens = jnp.array([[1, 7, 8, 2], [1, 9, 2, 0]])
    >>> texts = Sequences(tokens=tokens, mask=tokens > 0)
    >>> mismatched_texts(texts, jnp.array([2, 1])).tokens.tolist()
    [[1, 7, 9, 2], [1, 8, 2, 0]]
    """
    tokens, mask = jnp.asarray(texts.tokens), jnp.asarray(texts.mask)
    own, width = jnp.asarray(prompt_length)[:, None], tokens.shape[1]
    slots = jax.lax.broadcasted_iota(jnp.int32, tokens.shape, 1)
    source = slots - own + jnp.roll(own, -1, axis=0)  # where the next row has what comes here
    at = jnp.clip(source, 0, width - 1)
    follow = lambda x: jnp.take_along_axis(jnp.roll(x, -1, axis=0), at, axis=1)
    is_prompt = slots < own
    mask = jnp.where(is_prompt, mask, follow(mask) & (source < width))
    tokens = jnp.where(is_prompt, tokens, follow(tokens))
    return Sequences(tokens=jnp.where(mask, tokens, 0), mask=mask)
