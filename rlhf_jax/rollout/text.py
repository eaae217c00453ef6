"""What a policy, its value function and a reference say about completions."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rlhf_jax.config import RLHFConfig, SamplingConfig
from rlhf_jax.models.functional import Model
from rlhf_jax.models.value_heads import policy_and_values
from rlhf_jax.ops.distributions import entropy, log_probs_of
from rlhf_jax.ops.masked import completion_mask
from rlhf_jax.sampling.filters import forbid_end
from rlhf_jax.types import Array, Params, SpecialTokens, TextRollout, record


@record
class Experience:
    """A rollout ready to be learnt from; every array is [B, T] over completion tokens.

    What an algorithm has no use for is None.
    """

    rollout: TextRollout
    learnt: Array  # bool, tokens the policy learns from; a part of the completion mask
    rewards: Array  # score and KL penalty, before whitening
    values: Array  # 0 without a critic
    advantages: Array
    returns: Array  # what the values are fitted to
    ref_log_probs: Array
    behavior_logits: Array | None = None  # [B, T, V], of the policy that sampled
    ref_logits: Array | None = None  # [B, T, V]


def completion_window(rollout: TextRollout) -> tuple[int, int]:
    """Positions whose outputs predict the completion's tokens: `[P - 1, P + T - 1)`."""
    prompt, length = rollout.prompt_tokens.shape[1], rollout.completion_tokens.shape[1]
    return prompt - 1, prompt + length - 1


def drawn_from(model: Model, logits: Array, sampling: SamplingConfig) -> Array:
    """Logits [B, T, V] of the distribution that tokens are drawn from, but for top-k and top-p."""
    return forbid_end(logits, model.eos, sampling.min_length) / sampling.temperature


def completion_log_probs(
    model: Model, params: Params, rollout: TextRollout, sampling: SamplingConfig
) -> tuple[Array, Array]:
    """Log-probability of each completion token and entropy at it, [B, T] each, by a full pass."""
    window = completion_window(rollout)
    output = model.apply(params, rollout.tokens(), rollout.mask(), window=window)
    logits = drawn_from(model, output.logits, sampling)
    return log_probs_of(logits, rollout.completion_tokens), entropy(logits)


def completion_outputs(
    model: Model, params: Params, rollout: TextRollout, config: RLHFConfig
) -> tuple[Array, Array]:
    """Logits [B, T, V] as tokens are drawn, and values [B, T], at each completion token.

    The values are 0 where `params` has no value function.
    """
    sequences, window = (rollout.tokens(), rollout.mask()), completion_window(rollout)
    if "value" in params:
        logits, values = policy_and_values(
            model,
            params,
            *sequences,
            window=window,
            mode=config.model.value_head,
            layers=config.model.value_layers,
        )
    else:
        logits = model.apply(params["policy"], *sequences, window=window).logits
        values = jnp.zeros(rollout.completion_tokens.shape, logits.dtype)
    return drawn_from(model, logits, config.sampling), values


def up_to_end(rollout: TextRollout, special: SpecialTokens) -> TextRollout:
    """The rollout as it is read and scored: nothing after the first end of sequence."""
    mask = rollout.completion_mask & completion_mask(rollout.completion_tokens, special.eos)
    tokens = jnp.where(mask, rollout.completion_tokens, special.pad)
    return dataclasses.replace(rollout, completion_tokens=tokens, completion_mask=mask)


def with_log_probs(rollout: TextRollout, log_probs: Array) -> TextRollout:
    """The rollout with other behaviour log-probabilities, 0 on padding."""
    log_probs = jax.lax.stop_gradient(jnp.where(rollout.completion_mask, log_probs, 0.0))
    return dataclasses.replace(rollout, behavior_log_probs=log_probs)
