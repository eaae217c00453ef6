"""Completions from prompts: prefill once, then one cached step a further token, in one program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

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
    """Samples one completion for each left-padded prompt [B, P].

    `behavior_log_probs` are those of softmax(logits / temperature) without top-k and top-p, so they
    equal a full forward pass (`rollout.text.completion_log_probs`) under the same settings.
    A temperature of 0 is not sampling: use `top_k=1` for greedy completions.
    """
    batch, width = prompts.tokens.shape
    cache = empty_cache(config, batch, width + sampling.max_length - 1)  # the last is only drawn
    prefill = model.apply(
        params, prompts.tokens, prompts.mask, cache=cache, window=(width - 1, width)
    )

    def said_at(t: Array, logits: Array, alive: Array) -> Said:
        open_end = forbid(logits[:, 0], special.eos, t < sampling.min_length)
        return say(open_end, alive, jax.random.fold_in(key, t), sampling, special)

    def step(state: tuple[Said, KVCache], t: Array) -> tuple[tuple[Said, KVCache], Said]:
        last, cache = state
        output = model.apply(params, last.token[:, None], last.mask[:, None], cache=cache)
        alive = last.mask & (last.token != special.eos) if sampling.stop_at_eos else last.mask
        said = said_at(t, output.logits, alive)
        return (said, output.cache), said

    first = said_at(jnp.int32(0), prefill.logits, jnp.ones((batch,), bool))
    steps = jnp.arange(1, sampling.max_length, dtype=jnp.int32)
    _, rest = lax.scan(step, (first, prefill.cache), steps)
    said = jax.tree.map(lambda one, more: jnp.concatenate([one[None], more]).T, first, rest)
    return TextRollout(
        prompt_tokens=prompts.tokens,
        prompt_mask=prompts.mask,
        completion_tokens=said.token,
        completion_mask=said.mask,
        behavior_log_probs=said.log_prob,
    )
