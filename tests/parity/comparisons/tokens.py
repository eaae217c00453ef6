"""Ours against both TRL versions: masked statistics, log-probabilities, reward modelling."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np

from rlhf_jax.losses.reward_model import bradley_terry_loss, centering_loss
from rlhf_jax.ops.distributions import entropy, log_probs_of
from rlhf_jax.ops.masked import (
    completion_mask,
    last_index,
    masked_mean,
    masked_var,
    masked_whiten,
)
from rlhf_jax.ops.scores import overlong_penalty

from .. import draws
from ..cases import Case

PPOCase = partial(Case, peer="trl_ppo")
TRLCase = partial(Case, peer="trl")
PAD, EOS = 0, 1


def masked_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    mask = draws.ragged(rng, draw)
    return {"x": 3.0 + 2.0 * rng.normal(size=mask.shape), "mask": mask}


def row_mean(x, mask):
    return masked_mean(x, mask, axis=1)


def ended(rng: np.random.Generator, draw: int) -> draws.Arrays:
    """Completions that end with an EOS, then padding, or that never end."""
    mask = draws.ragged(rng, draw)
    tokens = rng.integers(2, draws.VOCAB, mask.shape, dtype=np.int32)
    last = mask.sum(1) - 1
    ends = (last < draws.LENGTH - 1) | (rng.random(draws.ROWS) < 0.5)
    tokens[ends, last[ends]] = EOS
    return {"tokens": np.where(mask, tokens, PAD).astype(np.int32)}


def scored(rng: np.random.Generator, draw: int) -> draws.Arrays:
    tokens = ended(rng, draw)["tokens"]
    return {"tokens": tokens, "scores": rng.normal(size=tokens.shape)}


def last_score(tokens, scores):
    last = last_index(tokens != PAD)
    return jnp.take_along_axis(scores, last[:, None], axis=1)[:, 0]


def logit_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    logits = draws.logits(rng, draw, draws.ROWS, draws.LENGTH)
    return {"logits": logits, "tokens": draws.tokens(rng, draws.ROWS, draws.LENGTH)}


def entropy_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    return {"logits": draws.logits(rng, draw, draws.ROWS, draws.LENGTH)}


def warm_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    return logit_batch(rng, draw) | {"temperature": draws.number(rng, 0.5, 2.0)}


def warm(logits, tokens, temperature):
    logits = logits / temperature
    return jnp.stack([log_probs_of(logits, tokens), entropy(logits)])


def pair_scores(rng: np.random.Generator, draw: int) -> draws.Arrays:
    """Close, equal, or so far apart that the sigmoid saturates."""
    spread = {draws.ON_POLICY: 0.0, draws.FAR: 40.0}.get(draw, 2.0)
    chosen, rejected = spread * rng.normal(size=(2, draws.ROWS))
    return {"chosen_scores": chosen, "rejected_scores": rejected}


def full_pair_scores(rng: np.random.Generator, draw: int) -> draws.Arrays:
    extra = {"margin": rng.uniform(0, 2, draws.ROWS), "centering": draws.number(rng, 0.01, 0.2)}
    return pair_scores(rng, draw) | extra


def pair_loss(chosen_scores, rejected_scores):
    return jnp.mean(bradley_terry_loss(chosen_scores, rejected_scores))


def full_pair_loss(chosen_scores, rejected_scores, margin, centering):
    ranking = bradley_terry_loss(chosen_scores, rejected_scores, margin=margin)
    return jnp.mean(ranking + centering * centering_loss(chosen_scores, rejected_scores))


def text_lengths(rng: np.random.Generator, draw: int) -> draws.Arrays:
    """Below, inside and beyond the buffer of 8 below 20, and its two ends."""
    return {"lengths": np.append(rng.integers(1, 30, 10), [12, 13, 20, 21]).astype(np.float64)}


def in_both(peer: str) -> list[Case]:
    """What TRL 1.9.2 and current TRL both have."""
    make = partial(Case, peer=peer)
    return [
        make(
            ours="log_probs_of",
            theirs="selective_log_softmax",
            call="selective_log_softmax",
            draw=logit_batch,
            run=log_probs_of,
            wrt=("logits",),
        ),
        make(
            ours="entropy",
            theirs="entropy_from_logits",
            call="entropy_from_logits",
            draw=entropy_batch,
            run=entropy,
            wrt=("logits",),
            terms=1.0,
        ),
        make(
            ours="bradley_terry_loss",
            theirs="RewardTrainer.compute_loss",
            call="reward_loss",
            draw=pair_scores,
            run=pair_loss,
            wrt=("chosen_scores", "rejected_scores"),
        ),
        make(
            ours="bradley_terry_loss, margin; centering_loss",
            theirs="RewardTrainer.compute_loss, margin, center_rewards_coefficient",
            call="reward_loss",
            draw=full_pair_scores,
            run=full_pair_loss,
            wrt=("chosen_scores", "rejected_scores"),
        ),
    ]


STATISTICS = [
    PPOCase(
        ours="masked_mean",
        theirs="masked_mean",
        call="masked_mean",
        draw=masked_batch,
        run=masked_mean,
        wrt=("x",),
        options={"axis": None},
    ),
    PPOCase(
        ours="masked_mean, axis=1",
        theirs="masked_mean, axis=1",
        call="masked_mean",
        draw=masked_batch,
        run=row_mean,
        wrt=("x",),
        options={"axis": 1},
    ),
    PPOCase(
        ours="masked_var, ddof=1",
        theirs="masked_var",
        call="masked_var",
        draw=masked_batch,
        run=partial(masked_var, ddof=1),
        wrt=("x",),
        options={"unbiased": True},
    ),
    PPOCase(
        ours="masked_var",
        theirs="masked_var, unbiased=False",
        call="masked_var",
        draw=masked_batch,
        run=masked_var,
        wrt=("x",),
        options={"unbiased": False},
    ),
    *[
        PPOCase(
            ours=f"masked_whiten, ddof=1, shift_mean={shift}",
            theirs=f"masked_whiten, shift_mean={shift}, on real tokens",
            call="masked_whiten",
            draw=masked_batch,
            run=partial(masked_whiten, ddof=1, shift_mean=shift),
            wrt=("x",),
            options={"shift_mean": shift},
        )
        for shift in (True, False)
    ],
    PPOCase(
        ours="completion_mask",
        theirs="truncate_response, first_true_indices",
        call="finished",
        draw=ended,
        run=partial(completion_mask, eos_id=EOS),
        options={"eos_id": EOS, "pad_id": PAD},
        dtypes=("float32",),
    ),
    PPOCase(
        ours="last_index, to gather a score",
        theirs="get_reward",
        call="last_score",
        draw=scored,
        run=last_score,
        wrt=("scores",),
        options={"pad_id": PAD},
    ),
    TRLCase(
        ours="overlong_penalty",
        theirs="get_soft_overlong_punishment",
        call="overlong",
        draw=text_lengths,
        run=partial(overlong_penalty, max_length=20, buffer=8),
        options={"max_length": 20, "buffer": 8},
    ),
    TRLCase(
        ours="log_probs_of and entropy of logits / temperature",
        theirs="add_fused_lm_head",
        call="fused_head",
        draw=warm_batch,
        run=warm,
        wrt=("logits",),
        dtypes=("float32",),
    ),
]
CASES = [*STATISTICS, *in_both("trl_ppo"), *in_both("trl")]
