"""What a policy is worth: rewards, KL to the reference, entropy and length of its completions."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from rlhf_jax.config import RLHFConfig, SamplingConfig
from rlhf_jax.models.functional import Model
from rlhf_jax.models.value_heads import score_texts
from rlhf_jax.rollout.text import completion_log_probs
from rlhf_jax.sampling.decode import generate
from rlhf_jax.train.batches import in_batches, num_rows
from rlhf_jax.train.state import Frozen
from rlhf_jax.types import (
    Array,
    Key,
    Params,
    ScoreFn,
    Sequences,
    SpecialTokens,
    TextRollout,
    record,
)


@record
class Evaluation:
    """One number a completion, [N] each; `gold` is 0 where the task has none."""

    rollout: TextRollout
    reward: Array  # reward-model score
    gold: Array
    kl: Array  # nats, log(policy / reference) summed over the completion
    entropy: Array  # nats a token, of the policy's distributions, mean over the completion
    length: Array  # tokens, end-of-sequence included


def make_evaluate(
    model: Model,
    config: RLHFConfig,
    *,
    special: SpecialTokens,
    gold: ScoreFn | None,
    batch_size: int = 128,
):
    """`(policy, frozen, prompts, key) -> Evaluation` of one completion a prompt."""

    def on_batch(policy: Params, frozen: Frozen, prompts: Sequences, key: Key) -> Evaluation:
        # Texts are read up to their end, however they are sampled in training.
        sampling = dataclasses.replace(config.sampling, stop_at_eos=True)
        rollout = generate(
            model,
            policy,
            prompts,
            key,
            config=config.model,
            sampling=sampling,
            special=special,
        )
        return judge_rollout(model, policy, frozen, rollout, sampling, gold)

    def evaluate(policy: Params, frozen: Frozen, prompts: Sequences, key: Key) -> Evaluation:
        batches = in_batches(prompts, batch_size)
        numbers = jnp.arange(num_rows(batches))
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(numbers)
        run = lambda batch: on_batch(policy, frozen, *batch)
        results = jax.lax.map(run, (batches, keys))
        flat = lambda x: x.reshape(-1, *x.shape[2:])[: num_rows(prompts)]
        return jax.tree.map(flat, results)

    return evaluate


def judge_rollout(
    model: Model,
    policy: Params,
    frozen: Frozen,
    rollout: TextRollout,
    sampling: SamplingConfig,
    gold: ScoreFn | None,
) -> Evaluation:
    """Everything known about given completions of `policy`."""
    mask = rollout.completion_mask
    log_probs, entropies = completion_log_probs(model, policy, rollout, sampling)
    ref_log_probs, _ = completion_log_probs(model, frozen.reference, rollout, sampling)
    tokens, whole = rollout.tokens(), rollout.mask()
    length = jnp.sum(mask, axis=1, dtype=jnp.float32)
    total = lambda x: jnp.sum(jnp.where(mask, x, 0.0), axis=1)
    return Evaluation(
        rollout=rollout,
        reward=score_texts(model, frozen.reward, tokens, whole),
        gold=jnp.zeros_like(length) if gold is None else gold(tokens, whole),
        kl=total(log_probs - ref_log_probs),
        entropy=total(entropies) / jnp.maximum(length, 1.0),
        length=length,
    )
