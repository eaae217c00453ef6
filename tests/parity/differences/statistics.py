"""Where we differ from TRL's masked statistics and entropies on purpose."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np

from rlhf_jax.ops.distributions import entropy
from rlhf_jax.ops.masked import completion_mask, masked_mean, masked_var, masked_whiten

from .. import draws
from ..cases import Arrays, Difference, only_ours_finite
from ..comparisons import tokens as token_cases

PPODifference = partial(Difference, peer="trl_ppo", wrt=("x",))


FLOAT32 = ("float32",)


def empty_batch(rng: np.random.Generator, draw: int) -> Arrays:
    shape = draws.ROWS, draws.LENGTH
    return {"x": rng.normal(size=shape), "mask": np.zeros(shape, bool)}


def single_batch(rng: np.random.Generator, draw: int) -> Arrays:
    batch = empty_batch(rng, draw)
    batch["mask"][0, 0] = True
    return batch


def padded_batch(rng: np.random.Generator, draw: int) -> Arrays:
    batch = token_cases.masked_batch(rng, draw)
    batch["mask"][0, -1] = False
    return batch


def bad_padding_batch(rng: np.random.Generator, draw: int) -> Arrays:
    batch = padded_batch(rng, draw)
    return batch | {"x": np.where(batch["mask"], batch["x"], np.nan)}


def whiten_padding_too(x, mask):
    return (x - masked_mean(x, mask)) * jax.lax.rsqrt(masked_var(x, mask, ddof=1) + 1e-8)


def pad_is_eos(rng: np.random.Generator, draw: int) -> Arrays:
    tokens = token_cases.ended(rng, draw)["tokens"]
    tokens[0, -1] = token_cases.EOS
    return {"tokens": np.where(tokens == token_cases.PAD, token_cases.EOS, tokens)}


def without_eos(tokens):
    return completion_mask(tokens, token_cases.EOS) & (tokens != token_cases.EOS)


def forbidden_batch(rng: np.random.Generator, draw: int) -> Arrays:
    logits = draws.logits(rng, draw, draws.ROWS, draws.LENGTH)
    logits[..., 0] = -np.inf
    return {"logits": logits}


def forbidden_warm_batch(rng: np.random.Generator, draw: int) -> Arrays:
    tokens = 1 + draws.tokens(rng, draws.ROWS, draws.LENGTH) % (draws.VOCAB - 1)
    forbidden = forbidden_batch(rng, draw) | {"tokens": tokens.astype(np.int32)}
    return forbidden | {"temperature": draws.number(rng, 0.5, 2.0)}


DIFFERENCES = [
    PPODifference(
        ours="masked_mean, nothing kept",
        theirs="masked_mean, nothing kept",
        call="masked_mean",
        draw=empty_batch,
        run=masked_mean,
        expect=only_ours_finite,
        options={"axis": None},
        title="The mean of nothing is 0; TRL's is NaN",
        right="Ours: a minibatch or a row without tokens must not spoil the step.",
    ),
    PPODifference(
        ours="masked_var, ddof=1, one kept",
        theirs="masked_var, one kept",
        call="masked_var",
        draw=single_batch,
        run=partial(masked_var, ddof=1),
        expect=only_ours_finite,
        options={"unbiased": True},
        title="The variance of one number is 0; TRL's is NaN",
        right="Ours, for the same reason.",
    ),
    PPODifference(
        ours="masked_whiten, on padding",
        theirs="masked_whiten, on padding",
        call="masked_whiten_raw",
        draw=padded_batch,
        run=partial(masked_whiten, ddof=1),
        bridge=whiten_padding_too,
        title="`masked_whiten` is 0 on padding; TRL leaves scaled padding for the caller to fill",
        right="Ours: what stands on padding must not leak.",
    ),
    PPODifference(
        ours="masked_mean, NaN on padding",
        theirs="masked_mean, NaN on padding",
        call="masked_mean",
        draw=bad_padding_batch,
        run=masked_mean,
        expect=only_ours_finite,
        options={"axis": None},
        title="A NaN on padding is ignored; TRL multiplies by the mask, and `NaN * 0` is NaN",
        right="Ours, for the same reason.",
    ),
    PPODifference(
        ours="completion_mask, pad id = EOS id",
        theirs="truncate_response, first_true_indices, pad id = EOS id",
        call="finished",
        draw=pad_is_eos,
        run=partial(completion_mask, eos_id=token_cases.EOS),
        bridge=without_eos,
        wrt=(),
        options={"eos_id": token_cases.EOS, "pad_id": token_cases.EOS},
        dtypes=FLOAT32,
        title="The EOS is part of the completion; where pad and EOS share an id, TRL's PPO leaves "
        "it out",
        right="Ours: stopping is an action, and a policy that gets no gradient on it cannot learn "
        "to stop.",
    ),
    Difference(
        ours="entropy, a forbidden token",
        peer="trl",
        theirs="entropy_from_logits, a logit of -inf",
        call="entropy_from_logits",
        draw=forbidden_batch,
        run=entropy,
        expect=only_ours_finite,
        wrt=("logits",),
        title="A forbidden token (logit -inf) adds 0 to the entropy; TRL's is NaN",
        right="Ours: `p log p` goes to 0 with p. Filters and forced tokens need it.",
    ),
    Difference(
        ours="entropy, a forbidden token",
        peer="trl",
        theirs="add_fused_lm_head, a logit of -inf",
        call="fused_head",
        draw=forbidden_warm_batch,
        run=token_cases.warm,
        expect=only_ours_finite,
        wrt=("logits",),
        dtypes=FLOAT32,
        title="The same in TRL's fused head",
        right="Ours, for the same reason.",
    ),
]
