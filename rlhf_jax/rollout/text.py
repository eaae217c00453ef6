"""What a policy, its value function and a reference say about completions."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rlhf_jax.models.functional import Model
from rlhf_jax.models.value_heads import policy_and_values
from rlhf_jax.ops.distributions import entropy, log_probs_of
from rlhf_jax.types import Array, Params, TextRollout, record


@record
class Experience:
    """A rollout ready to be learnt from; every array is [B, T] over completion tokens."""

    rollout: TextRollout
    values: Array
    advantages: Array
    returns: Array


def completion_window(rollout: TextRollout) -> tuple[int, int]:
    """Positions whose outputs predict the completion's tokens: `[P - 1, P + T - 1)`."""
    prompt, length = rollout.prompt_tokens.shape[1], rollout.completion_tokens.shape[1]
    return prompt - 1, prompt + length - 1


def completion_log_probs(
    model: Model, params: Params, rollout: TextRollout, temperature: Array | float
) -> tuple[Array, Array]:
    """Log-probability of each completion token and entropy at it, [B, T] each, by a full pass."""
    window = completion_window(rollout)
    output = model.apply(params, rollout.tokens(), rollout.mask(), window=window)
    logits = output.logits / temperature
    return log_probs_of(logits, rollout.completion_tokens), entropy(logits)


def log_probs_and_values(
    model: Model, params: Params, rollout: TextRollout, temperature: Array | float, mode: str
) -> tuple[Array, Array, Array]:
    """Log-probabilities, values and entropies at each completion token, [B, T] each."""
    logits, values = policy_and_values(
        model,
        params,
        rollout.tokens(),
        rollout.mask(),
        window=completion_window(rollout),
        mode=mode,
    )
    logits = logits / temperature
    return log_probs_of(logits, rollout.completion_tokens), values, entropy(logits)


def with_log_probs(rollout: TextRollout, log_probs: Array) -> TextRollout:
    """The rollout with other behaviour log-probabilities, 0 on padding."""
    log_probs = jax.lax.stop_gradient(jnp.where(rollout.completion_mask, log_probs, 0.0))
    return dataclasses.replace(rollout, behavior_log_probs=log_probs)
