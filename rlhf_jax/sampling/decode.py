"""Completions from prompts: prefill once, then one cached step a token, in one program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from rlhf_jax.config import ModelConfig, SamplingConfig
from rlhf_jax.models.cache import KVCache
from rlhf_jax.models.functional import Model
from rlhf_jax.models.transformer import empty_cache
from rlhf_jax.ops.distributions import log_probs_of
from rlhf_jax.sampling.filters import forbid, top_k, top_p
from rlhf_jax.types import Array, Key, Params, Sequences, SpecialTokens, TextRollout, record


@record
class DecodeState:
    """One row a sequence: where decoding stands after some tokens."""

    logits: Array  # [B, V], of the next token, before temperature
    cache: KVCache
    alive: Array  # [B] bool, no end-of-sequence yet


def draw(logits: Array, key: Key, sampling: SamplingConfig, special: SpecialTokens):
    """Draws next tokens [B] from temperature-scaled `logits` [B, V] under the filters."""
    allowed = logits
    for token in (special.pad, special.bos):
        allowed = forbid(allowed, token, jnp.ones((), bool))
    allowed = top_p(top_k(allowed, sampling.top_k), sampling.top_p)
    return jax.random.categorical(key, allowed, axis=-1).astype(jnp.int32)


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
    cache = empty_cache(config, batch, width + sampling.max_length)
    first = model.apply(
        params, prompts.tokens, prompts.mask, cache=cache, window=(width - 1, width)
    )
    state = DecodeState(
        logits=first.logits[:, 0], cache=first.cache, alive=jnp.ones((batch,), bool)
    )

    def step(state: DecodeState, t: Array):
        open_end = forbid(state.logits, special.eos, t < sampling.min_length)
        logits = open_end / sampling.temperature
        token = draw(logits, jax.random.fold_in(key, t), sampling, special)
        token = jnp.where(state.alive, token, special.pad)
        log_prob = jnp.where(state.alive, log_probs_of(logits, token), 0.0)
        output = model.apply(params, token[:, None], state.alive[:, None], cache=state.cache)
        after = DecodeState(
            logits=output.logits[:, 0],
            cache=output.cache,
            alive=state.alive & (token != special.eos) if sampling.stop_at_eos else state.alive,
        )
        return after, (token, state.alive, log_prob)

    steps = jnp.arange(sampling.max_length, dtype=jnp.int32)
    _, (tokens, mask, log_probs) = lax.scan(step, state, steps)
    return TextRollout(
        prompt_tokens=prompts.tokens,
        prompt_mask=prompts.mask,
        completion_tokens=tokens.T,
        completion_mask=mask.T,
        behavior_log_probs=log_probs.T,
    )
