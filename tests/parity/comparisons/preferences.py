"""Ours against TRL's trainers on preferences: DPO and its variants, KTO, ORPO, CPO, SimPO."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np

from rlhf_jax.losses.dpo import dpo_loss, hinge_loss, ipo_loss, robust_dpo_loss
from rlhf_jax.losses.language_model import cross_entropy
from rlhf_jax.losses.preference import kto_loss, orpo_loss, simpo_loss
from rlhf_jax.ops.distributions import log_probs_of
from rlhf_jax.ops.masked import masked_mean, masked_sum

from .. import draws
from ..cases import Case

TRLCase = partial(Case, peer="trl")


def halves(x):
    return x[: len(x) // 2], x[len(x) // 2 :]


def pairwise(loss, reduce=masked_sum, **fixed):
    """A loss on pairs of texts, from per-token log-probabilities: its mean and mean rewards."""

    def run(log_probs, ref_log_probs, mask, **numbers):
        ours = halves(reduce(log_probs, mask, axis=1))
        reference = halves(reduce(ref_log_probs, mask, axis=1))
        losses, chosen, rejected = loss(*ours, *reference, **numbers, **fixed)
        rewards = jnp.stack([jnp.mean(chosen), jnp.mean(rejected)])
        return {"value": jnp.mean(losses), "rewards": rewards}

    return run


def smoothed_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    return draws.preference_batch(rng, draw) | {"label_smoothing": draws.number(rng, 0.0, 0.3)}


def mean_ipo(log_probs, ref_log_probs, mask, beta):
    """IPO on mean log-probabilities, as TRL has it; TRL's rewards are sums all the same."""
    value = pairwise(ipo_loss, masked_mean)(log_probs, ref_log_probs, mask, beta=beta)["value"]
    rewards = pairwise(dpo_loss)(log_probs, ref_log_probs, mask, beta=beta)["rewards"]
    return {"value": value, "rewards": rewards}


def kto_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    """Half of the texts or more desirable; a KL of either sign from texts of their own."""
    kl_log_probs = draws.log_probs(rng, draw, (draws.ROWS, draws.LENGTH))
    rest = {
        "desirable": np.append([True, False], rng.random(2 * draws.ROWS - 2) < 0.5),
        "kl_log_probs": kl_log_probs,
        "kl_ref_log_probs": draws.near(rng, draw, kl_log_probs, far=1.5),
        "kl_mask": draws.ragged(rng, draw),
        "desirable_weight": draws.number(rng, 0.5, 1.5),
        "undesirable_weight": draws.number(rng, 0.5, 1.5),
    }
    return draws.preference_batch(rng, draw) | rest


def kto(log_probs, ref_log_probs, mask, desirable, kl_log_probs, kl_ref_log_probs, kl_mask, **rest):
    log_ratios = masked_sum(kl_log_probs - kl_ref_log_probs, kl_mask, axis=1)
    texts = masked_sum(log_probs, mask, axis=1), masked_sum(ref_log_probs, mask, axis=1)
    losses, rewards = kto_loss(*texts, desirable, jnp.mean(log_ratios), **rest)
    means = [masked_mean(rewards, desirable), masked_mean(rewards, ~desirable)]
    return {"value": jnp.mean(losses), "rewards": jnp.stack(means)}


def text_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    """Whole texts [2 ROWS, 2 + LENGTH]: prompts of two tokens, then ragged completions."""
    kept = draws.ragged(rng, draw, 2 * draws.ROWS)
    prompt = np.ones((2 * draws.ROWS, 2), bool)
    shape = 2 * draws.ROWS, 2 + draws.LENGTH
    return {
        "logits": draws.logits(rng, draw, *shape),
        "tokens": draws.tokens(rng, *shape),
        "mask": np.concatenate([prompt, kept], axis=1),
        "completion_mask": np.concatenate([~prompt, kept], axis=1),
        "beta": draws.number(rng, 0.05, 0.5),
    }


def mean_log_probs(logits, tokens, completion_mask):
    log_probs = log_probs_of(logits[:, :-1], tokens[:, 1:])
    return halves(masked_mean(log_probs, completion_mask[:, 1:], axis=1))


def orpo(logits, tokens, mask, completion_mask, beta):
    """The odds-ratio term, and the NLL of the chosen texts with their prompts."""
    term = orpo_loss(*mean_log_probs(logits, tokens, completion_mask), beta=beta)[0]
    nll = cross_entropy(logits[:, :-1], tokens[:, 1:])
    return masked_mean(*(halves(x)[0] for x in (nll, mask[:, 1:]))) + jnp.mean(term)


def simpo_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    numbers = {
        "beta": draws.number(rng, 0.5, 1.5),
        "margin": draws.number(rng, 0.0, 2.0),
        "label_smoothing": draws.number(rng, 0.0, 0.3),
    }
    return text_batch(rng, draw) | numbers


def simpo(logits, tokens, mask, completion_mask, **numbers):
    return jnp.mean(simpo_loss(*mean_log_probs(logits, tokens, completion_mask), **numbers)[0])


def sums_batch(rng: np.random.Generator, draw: int) -> draws.Arrays:
    batch = smoothed_batch(rng, draw)
    chosen, rejected = halves((batch["log_probs"] * batch["mask"]).sum(1))
    numbers = {name: batch[name] for name in ("beta", "label_smoothing")}
    return {"chosen_log_probs": chosen, "rejected_log_probs": rejected, **numbers}


def without_reference(loss):
    def run(chosen_log_probs, rejected_log_probs, **numbers):
        zeros = jnp.zeros_like(chosen_log_probs)
        losses, chosen, rejected = loss(
            chosen_log_probs, rejected_log_probs, zeros, zeros, **numbers
        )
        return {"value": losses, "chosen_rewards": chosen, "rejected_rewards": rejected}

    return run


def unsmoothed(loss):
    def run(label_smoothing, **arrays):
        return without_reference(loss)(**arrays)

    return run


def dpo_case(name: str, run, loss_type: str, draw=draws.preference_batch) -> Case:
    return TRLCase(
        ours=name,
        theirs=f"DPOTrainer._compute_loss, loss_type={loss_type}",
        call="dpo",
        draw=draw,
        run=run,
        wrt=("log_probs",),
        options={"loss_type": loss_type},
    )


def cpo_case(name: str, run, loss_type: str) -> Case:
    return TRLCase(
        ours=name,
        theirs=f"CPOTrainer.cpo_loss, loss_type={loss_type}",
        call="cpo",
        draw=sums_batch,
        run=run,
        wrt=("chosen_log_probs", "rejected_log_probs"),
        options={"loss_type": loss_type},
    )


CASES = [
    dpo_case("dpo_loss", pairwise(dpo_loss), "sigmoid"),
    dpo_case("hinge_loss", pairwise(hinge_loss), "hinge"),
    dpo_case("robust_dpo_loss", pairwise(robust_dpo_loss), "robust", smoothed_batch),
    dpo_case("ipo_loss of mean log-probabilities", mean_ipo, "ipo"),
    TRLCase(
        ours="dpo_loss, label_smoothing (cDPO)",
        theirs="DPOTrainer._compute_loss, loss_type=aot, one pair a batch",
        call="dpo_pairwise",
        draw=smoothed_batch,
        run=lambda **arrays: pairwise(dpo_loss)(**arrays)["value"],
        wrt=("log_probs",),
        options={"loss_type": "aot"},
    ),
    cpo_case(
        "dpo_loss, label_smoothing (cDPO), reference 0", without_reference(dpo_loss), "sigmoid"
    ),
    cpo_case("hinge_loss, reference 0", unsmoothed(hinge_loss), "hinge"),
    cpo_case("ipo_loss, reference 0", unsmoothed(ipo_loss), "ipo"),
    TRLCase(
        ours="kto_loss",
        theirs="KTOTrainer._compute_loss",
        call="kto",
        draw=kto_batch,
        run=kto,
        wrt=("log_probs",),
    ),
    TRLCase(
        ours="orpo_loss + cross_entropy",
        theirs="ORPOTrainer.get_batch_loss_metrics",
        call="orpo",
        draw=text_batch,
        run=orpo,
        wrt=("logits",),
        dtypes=("float32",),
    ),
    TRLCase(
        ours="simpo_loss",
        theirs="CPOTrainer.get_batch_loss_metrics, loss_type=simpo",
        call="simpo",
        draw=simpo_batch,
        run=simpo,
        wrt=("logits",),
    ),
]
