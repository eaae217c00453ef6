"""What happens to the score of a completion before anything is learnt from it."""

from __future__ import annotations

import dataclasses
from typing import TypeVar

import jax
import jax.numpy as jnp

from rlhf_jax.config import OnlineDPOConfig, PolicyGradientConfig
from rlhf_jax.ops.scores import (
    informative_groups,
    missing_eos_penalty,
    missing_eos_replacement,
    overlong_penalty,
)
from rlhf_jax.rollout.text import up_to_end
from rlhf_jax.types import Array, SpecialTokens, TextRollout, record

Tree = TypeVar("Tree")


@record
class Scored:
    """The completions an update learns from. One number each, [B]."""

    rollout: TextRollout
    raw: Array  # as the reward gave them
    scores: Array  # after clipping, penalties for length and for a missing end
    learnt: Array  # bool, False where nothing is to be learnt from a completion
    greedy: Array  # score of the greedy completion of the same prompt; 0 without one


def score_texts(
    algo: PolicyGradientConfig, rollout: TextRollout, scores: Array, special: SpecialTokens
) -> Scored:
    """Shapes the scores of a rollout and picks the rows to learn from."""
    shaped = shape(algo, rollout, scores, special)
    learnt = jnp.ones_like(scores, bool)
    if algo.mask_truncated:
        learnt = finished(rollout, special)
    found = Scored(
        rollout=rollout,
        raw=scores,
        scores=shaped,
        learnt=learnt,
        greedy=jnp.zeros_like(scores),
    )
    if algo.advantage == "remax":
        return dataclasses.replace(drawn(algo, found), greedy=shaped[algo.batch_size :])
    return keep_informative(algo, found) if algo.dynamic_sampling > 1 else found


def drawn(algo: PolicyGradientConfig, tree: Tree) -> Tree:
    """The rows that were sampled; ReMax has as many greedy ones behind them."""
    count = algo.batch_size * algo.dynamic_sampling
    return jax.tree.map(lambda x: x[:count], tree)


def finished(rollout: TextRollout, special: SpecialTokens) -> Array:
    """Whether a completion has an end of sequence, [B]."""
    ends = (rollout.completion_tokens == special.eos) & rollout.completion_mask
    return jnp.any(ends, axis=1)


def shape(
    algo: PolicyGradientConfig, rollout: TextRollout, scores: Array, special: SpecialTokens
) -> Array:
    """Clips scores, then charges for length and for a missing end of sequence."""
    if algo.score_clip is not None:
        scores = jnp.clip(scores, -algo.score_clip, algo.score_clip)
    if algo.overlong_buffer:
        mask = up_to_end(rollout, special).completion_mask
        lengths = jnp.sum(mask, axis=1, dtype=scores.dtype)
        longest = mask.shape[1]
        charge = overlong_penalty(lengths, max_length=longest, buffer=algo.overlong_buffer)
        scores = scores + algo.overlong_penalty * charge
    return charge_missing_eos(algo, rollout, scores, special)


def charge_missing_eos(
    algo: PolicyGradientConfig | OnlineDPOConfig,
    rollout: TextRollout,
    scores: Array,
    special: SpecialTokens,
) -> Array:
    """Subtracts from the score of an unfinished completion, or replaces it."""
    texts = (rollout.completion_tokens, rollout.completion_mask)
    penalty, eos = algo.missing_eos_penalty, special.eos
    match algo.missing_eos:
        case "subtract":
            return missing_eos_penalty(scores, *texts, eos_id=eos, penalty=penalty)
        case "replace":
            return missing_eos_replacement(scores, *texts, eos_id=eos, value=-penalty)
    return scores


def keep_informative(algo: PolicyGradientConfig, found: Scored) -> Scored:
    """As many groups as a batch has, those whose scores differ first.

    Where there are too few of these the rest of the batch is masked out, as groups with equal
    scores have nothing to say (DAPO, Yu et al. 2025, arXiv:2503.14476, section 3.2).
    """
    good = informative_groups(found.scores.reshape(-1, algo.group_size))
    chosen = jnp.argsort(~good, stable=True)[: algo.batch_size // algo.group_size]
    members = jnp.arange(algo.group_size)
    rows = (chosen[:, None] * algo.group_size + members[None, :]).reshape(-1)
    kept: Scored = jax.tree.map(lambda x: x[rows], found)
    real = jnp.repeat(good[chosen], algo.group_size)[:, None]
    rollout = kept.rollout
    rollout = dataclasses.replace(rollout, completion_mask=rollout.completion_mask & real)
    return dataclasses.replace(kept, rollout=rollout)
