"""Completions from prompts: prefill once, then one cached step a further token, in one program.

It takes as many steps as the longest completion has tokens.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from rlhf_jax.config import ModelConfig, SamplingConfig
from rlhf_jax.models.cache import KVCache
from rlhf_jax.models.functional import Model
from rlhf_jax.models.transformer import empty_cache
from rlhf_jax.ops.distributions import log_probs_of, sample
from rlhf_jax.sampling.filters import forbid, top_k, top_p
from rlhf_jax.types import Array, Key, Params, Sequences, SpecialTokens, TextRollout, record


@record
class Said:
    """One row a sequence: a token of its completion."""

    token: Array  # [B] int32
    mask: Array  # [B] bool, False once it ended before
    log_prob: Array  # [B], 0 where masked


def draw(logits: Array, key: Key, sampling: SamplingConfig, special: SpecialTokens) -> Array:
    """Draws next tokens [B] from temperature-scaled `logits` [B, V] under the filters."""
    allowed = logits
    for token in (special.pad, special.bos):
        allowed = forbid(allowed, token, jnp.ones((), bool))
    allowed = top_p(top_k(allowed, sampling.top_k), sampling.top_p)
    return sample(key, allowed)


def say(
    logits: Array, alive: Array, key: Key, sampling: SamplingConfig, special: SpecialTokens
) -> Said:
    """Draws a token for each sequence that is still `alive` [B] from `logits` [B, V]."""
    scaled = logits / sampling.temperature
    token = jnp.where(alive, draw(scaled, key, sampling, special), special.pad)
    log_prob = jnp.where(alive, log_probs_of(scaled, token), 0.0)
    return Said(token=token, mask=alive, log_prob=log_prob)


@record
class Saying:
    """Completions under way."""

    t: Array  # [] int32, tokens said of each
    last: Said
    cache: KVCache
    rows: Said  # each [T, B]: what was said; padding, masked out, from `t` on


def put(rows: Said, said: Said, t: Array | int) -> Said:
    """`rows` with `said` at position `t`."""
    write = lambda row, new: lax.dynamic_update_index_in_dim(row, new, t, 0)
    return jax.tree.map(write, rows, said)


def empty_rows(like: Said, length: int, pad: int) -> Said:
    """Rows for `length` tokens of each sequence, none of them said."""
    rows = jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), like)
    return dataclasses.replace(rows, token=jnp.full_like(rows.token, pad))


@custom_vmap
def anyone(alive: Array) -> Array:
    """Whether any sequence is `alive`; of vmapped lanes too, so that they share one loop."""
    return jnp.any(alive)


@anyone.def_vmap
def anyone_of_any_lane(axis_size: int, in_batched: list[bool], alive: Array) -> tuple[Array, bool]:
    """One answer for all: a lane's own would make each step copy the caches of those that ended."""
    return anyone(alive), False


def generate(
    model: Model,
    params: Params,
    prompts: Sequences,
    key: Key,
    *,
    config: ModelConfig,
    sampling: SamplingConfig,
    special: SpecialTokens,
) -> TextRollout:
    """Samples one completion for each left-padded prompt [B, P]; stops when all have ended.

    `behavior_log_probs` are those of softmax(logits / temperature) without top-k and top-p, so they
    equal a full forward pass (`rollout.text.completion_log_probs`) under the same settings.
    A temperature of 0 is not sampling: use `top_k=1` for greedy completions.
    """
    width, length = prompts.tokens.shape[1], sampling.max_length
    cache = empty_cache(config, len(prompts.tokens), width + length - 1)  # the last is only drawn
    prefill = model.apply(
        params, prompts.tokens, prompts.mask, cache=cache, window=(width - 1, width)
    )

    def said_at(t: Array, logits: Array, alive: Array) -> Said:
        open_end = forbid(logits[:, 0], special.eos, t < sampling.min_length)
        return say(open_end, alive, jax.random.fold_in(key, t), sampling, special)

    def alive(last: Said) -> Array:
        return last.mask & (last.token != special.eos) if sampling.stop_at_eos else last.mask

    def goes_on(now: Saying) -> Array:
        more = now.t < length
        return more & anyone(alive(now.last)) if sampling.stop_at_eos else more

    def step(now: Saying) -> Saying:
        last = now.last
        output = model.apply(params, last.token[:, None], last.mask[:, None], cache=now.cache)
        said = said_at(now.t, output.logits, alive(last))
        rows = put(now.rows, said, now.t)
        return Saying(t=now.t + 1, last=said, cache=output.cache, rows=rows)

    first = said_at(jnp.int32(0), prefill.logits, jnp.ones(len(prompts.tokens), bool))
    rows = put(empty_rows(first, length, special.pad), first, 0)
    start = Saying(t=jnp.int32(1), last=first, cache=prefill.cache, rows=rows)
    said = jax.tree.map(jnp.transpose, lax.while_loop(goes_on, step, start).rows)
    return TextRollout(
        prompt_tokens=prompts.tokens,
        prompt_mask=prompts.mask,
        completion_tokens=said.token,
        completion_mask=said.mask,
        behavior_log_probs=said.log_prob,
    )
