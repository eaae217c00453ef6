"""Online DPO: two completions of each prompt, ranked by the reward, and a preference loss on them.

Follows Guo et al. 2024 (arXiv:2402.04792), with a reward in the place of their annotator. The pairs
are always the policy's own, so each is learnt from once: one optimizer step an update.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from rlhf_jax.config import OnlineDPOConfig, RLHFConfig, merge_dynamic, of_kind
from rlhf_jax.losses.reward_model import expected_loss
from rlhf_jax.models.functional import Model
from rlhf_jax.ops.distributions import probability_ratio
from rlhf_jax.ops.masked import masked_mean, masked_sum
from rlhf_jax.rollout.text import completion_log_probs, up_to_end, with_log_probs
from rlhf_jax.sampling.decode import generate
from rlhf_jax.train.batches import next_prompts
from rlhf_jax.train.experience import describe_texts
from rlhf_jax.train.one_step import descend
from rlhf_jax.train.preference_loss import describe, pair_losses
from rlhf_jax.train.scores import charge_missing_eos, finished
from rlhf_jax.train.state import Algorithm, Frozen, TrainState, stream
from rlhf_jax.types import Array, Metrics, Params, Sequences, SpecialTokens, TextRollout


def make_online_dpo(
    model: Model,
    static: RLHFConfig,
    *,
    special: SpecialTokens,
    score: Callable[[Frozen, TextRollout], Array],
    watch: Callable[[TextRollout], Metrics] = lambda rollout: {},
) -> Algorithm:
    """The update of `static`, the part of the config compiled in; `hparams` is the traced part.

    `score` is the reward of each completion [B]; `watch` adds metrics that are not trained on.
    Rows 2i and 2i + 1 of a rollout answer one prompt.
    """

    def collect(state: TrainState, prompts: Sequences, hparams: dict) -> TextRollout:
        config = merge_dynamic(static, hparams)
        rollout = generate(
            model,
            state.params["policy"],
            next_prompts(state, prompts, config.algo.batch_size // 2, repeats=2),
            stream(state.key, "rollout", state.update),
            config=config.model,
            sampling=config.sampling,
            special=special,
        )
        return up_to_end(rollout, special)

    def learn(
        state: TrainState, rollout: TextRollout, scores: Array, frozen: Frozen, hparams: dict
    ) -> tuple[TrainState, Metrics]:
        config = merge_dynamic(static, hparams)
        ranked = charge_missing_eos(of_kind(config.algo, OnlineDPOConfig), rollout, scores, special)
        ref_log_probs, _ = completion_log_probs(model, frozen.reference, rollout, config.sampling)
        loss_fn = lambda params: online_loss(model, config, params, rollout, ranked, ref_log_probs)
        state, metrics = descend(config, state, loss_fn)
        metrics = watch(rollout) | metrics | {"objective/scores": jnp.mean(scores)}
        metrics["objective/rlhf_reward"] = jnp.mean(scores) + metrics["objective/non_score_reward"]
        metrics["val/num_eos_tokens"] = jnp.sum(finished(rollout, special), dtype=jnp.int32)
        metrics["episode"] = state.update * scores.size
        return state, metrics

    return Algorithm.of(collect, score, learn)


def online_loss(
    model: Model,
    config: RLHFConfig,
    params: Params,
    rollout: TextRollout,
    scores: Array,
    ref_log_probs: Array,
) -> tuple[Array, Metrics]:
    """Mean loss of the pairs, on sums at the sampling temperature; see `rank` for ties."""
    algo, mask = of_kind(config.algo, OnlineDPOConfig), rollout.completion_mask
    log_probs, _ = completion_log_probs(model, params["policy"], rollout, config.sampling)
    if algo.behavior_log_probs == "forward":
        rollout = with_log_probs(rollout, log_probs)
    sums, ref_sums = (masked_sum(x, mask, axis=1) for x in (log_probs, ref_log_probs))
    better, worse, weights = rank(scores, algo.ranking)
    mean = lambda x: jnp.sum(x * weights) / jnp.maximum(jnp.sum(weights), 1.0)
    sides = (sums[better], sums[worse])
    ref_sides = (ref_sums[better], ref_sums[worse])
    losses, *rewards = pair_losses(algo.loss, *sides, *ref_sides, algo.beta)
    if algo.ranking == "bradley_terry":
        turned = (sums[worse], sums[better], ref_sums[worse], ref_sums[better])
        swapped, *_ = pair_losses(algo.loss, *turned, algo.beta)
        losses = expected_loss(losses, swapped, jax.nn.sigmoid(scores[better] - scores[worse]))
    metrics = describe(*sides, *rewards, mean=mean) | {"loss/policy_avg": mean(losses)}
    metrics["val/tied_pairs"] = 1.0 - jnp.mean(weights)
    metrics |= describe_rollout(algo, rollout, log_probs, ref_log_probs)
    return mean(losses), metrics


def rank(scores: Array, ranking: str = "better") -> tuple[Array, Array, Array]:
    """Rows of the better and of the worse completion of each prompt, and the pair's weight.

    The weight is NaN where a score is NaN, so that the update is skipped and counted rather than
    learnt from, and 0 for a tie, but for `bradley_terry`, where even chances are news.

    >>> better, worse, weights = rank(jnp.array([1.0, 2.0, 3.0, 3.0]))
    >>> better.tolist(), worse.tolist(), weights.tolist()
    ([1, 2], [0, 3], [1.0, 0.0])
    """
    gaps = scores[0::2] - scores[1::2]
    first = 2 * jnp.arange(gaps.size, dtype=jnp.int32)
    swap = (gaps < 0).astype(jnp.int32)
    known = jnp.abs(jnp.sign(gaps))
    weights = known if ranking == "better" else jnp.where(known == 0.0, 1.0, known)
    return first + swap, first + 1 - swap, weights


def describe_rollout(
    algo: OnlineDPOConfig, rollout: TextRollout, log_probs: Array, ref_log_probs: Array
) -> Metrics:
    """How far the sampled texts are from the reference, and the sampler from the forward pass."""
    mask, metrics = rollout.completion_mask, describe_texts(rollout, ref_log_probs)
    ratio = probability_ratio(jnp.where(mask, log_probs, 0.0), rollout.behavior_log_probs)
    return metrics | {
        "objective/non_score_reward": -algo.beta * metrics["objective/kl"],
        "val/ratio_first": masked_mean(ratio, mask),
        "val/ratio_first_error": jnp.max(jnp.where(mask, jnp.abs(ratio - 1.0), 0.0)),
    }
