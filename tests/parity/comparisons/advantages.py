"""Ours against TRL's GRPO and RLOO: advantages within a group of scores."""

from __future__ import annotations

from functools import partial

import numpy as np

from rlhf_jax.ops.advantages import dr_grpo_advantages, grpo_advantages, rloo_advantages
from rlhf_jax.ops.kl import kl_k1
from rlhf_jax.ops.masked import masked_sum

from .. import draws
from ..cases import Case

GROUPS, SIZE = 3, 4


def score_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    """Groups of ordinary scores; in one draw only right and wrong, in another on an offset."""
    scores = rng.normal(size=(GROUPS, SIZE))
    if draw == draws.SINGLE:
        scores = np.tile([0.0, 1.0, 1.0, 0.0], (GROUPS, 1))
    return {"scores": scores + (3.0 if draw == draws.FAR else 0.0)}


def score_and_kl_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    rows = GROUPS * SIZE
    log_probs = draws.log_probs(rng, draw, (rows, draws.LENGTH))
    return score_batch(rng, draw) | {
        "log_probs": log_probs,
        "ref_log_probs": draws.near(rng, draw, log_probs, far=1.0),
        "mask": draws.ragged(rng, draw, rows),
        "beta": draws.number(rng, 0.01, 0.5),
    }


def rloo_of_penalised(scores, log_probs, ref_log_probs, mask, beta):
    kl = masked_sum(kl_k1(log_probs, ref_log_probs), mask, axis=1)
    return rloo_advantages(scores - beta * kl.reshape(scores.shape))


def advantage_case(name: str, what: str, run, call: str, draw=score_batch, **options) -> Case:
    """Values only: TRL passes scores through plain Python floats into float32."""
    return Case(
        ours=name,
        peer="trl",
        theirs=f"{what}._generate_and_score_completions",
        call=call,
        draw=draw,
        run=run,
        options=options,
        dtypes=("float32",),
    )


CASES = [
    advantage_case(
        "grpo_advantages, ddof=1, epsilon=1e-4",
        "GRPOTrainer",
        partial(grpo_advantages, ddof=1, epsilon=1e-4),
        "grpo_advantages",
    ),
    advantage_case(
        "dr_grpo_advantages",
        "GRPOTrainer(scale_rewards=none)",
        dr_grpo_advantages,
        "grpo_advantages",
        scale_rewards="none",
    ),
    advantage_case("rloo_advantages", "RLOOTrainer", rloo_advantages, "rloo_advantages"),
    Case(
        ours="rloo_advantages of scores less beta kl_k1",
        peer="trl",
        theirs="RLOOTrainer._generate_and_score_completions, beta",
        call="rloo_advantages",
        draw=score_and_kl_batch,
        run=rloo_of_penalised,
        dtypes=("float32",),
    ),
]
