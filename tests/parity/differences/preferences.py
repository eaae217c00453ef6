"""Where we differ from TRL's losses on preferences on purpose."""

from __future__ import annotations

import numpy as np

from rlhf_jax.losses.dpo import dpo_loss, ipo_loss
from rlhf_jax.losses.preference import orpo_loss

from .. import draws
from ..cases import Arrays, Difference, only_ours_finite
from ..comparisons import preferences

FLOAT32 = ("float32",)


def uneven_batch(rng: np.random.Generator, draw: int) -> Arrays:
    """Chosen texts of seven tokens, rejected ones of two."""
    lengths = np.repeat([draws.LENGTH, 2], draws.ROWS)
    mask = np.arange(draws.LENGTH)[None] < lengths[:, None]
    return draws.preference_batch(rng, draw) | {"mask": mask}


def smoothed_batch(rng: np.random.Generator, draw: int) -> Arrays:
    smoothing = {"label_smoothing": draws.number(rng, 0.1, 0.3)}
    return draws.preference_batch(rng, draw) | smoothing


def unsmoothed(label_smoothing, **batch):
    return preferences.pairwise(dpo_loss)(**batch)


def certain_batch(rng: np.random.Generator, draw: int) -> Arrays:
    """Texts the policy is sure of: their mean log-probability rounds to 0."""
    zeros = np.zeros(draws.ROWS)
    return {"chosen_log_probs": zeros, "rejected_log_probs": zeros - 1, "beta": np.array(0.1)}


def saturated_batch(rng: np.random.Generator, draw: int) -> Arrays:
    """Texts the loss has pushed 20 to 40 nats of reward the right way, and no KL."""
    batch = preferences.kto_batch(rng, draw)
    sign = np.where(batch["desirable"], 1.0, -1.0)[:, None]
    gap = np.where(np.arange(draws.LENGTH) == 0, rng.uniform(20, 40), 0.0)
    reference = batch["log_probs"] - sign * gap
    unmoved = {"kl_ref_log_probs": batch["kl_log_probs"], "beta": np.array(1.0)}
    return batch | unmoved | {"ref_log_probs": reference}


def only_theirs_zero(ours: Arrays, theirs: Arrays) -> bool:
    """Where the peer's small losses are lost, ours are there; both sides are below 1e-8."""
    return bool(np.all(ours["value"] > 0) and np.all(ours["value"] < 1e-8) and 0 in theirs["value"])


DIFFERENCES = [
    Difference(
        ours="ipo_loss",
        peer="trl",
        theirs="DPOTrainer._compute_loss, loss_type=ipo, uneven lengths",
        call="dpo",
        draw=uneven_batch,
        run=preferences.pairwise(ipo_loss),
        bridge=preferences.mean_ipo,
        wrt=("log_probs",),
        options={"loss_type": "ipo"},
        title="`ipo_loss` takes what it is given, by Eq. 17 summed log-probabilities; TRL divides "
        "them by the length",
        right="Ours is the paper's text; TRL says that the authors confirmed the mean. Give "
        "`ipo_loss` means and it is TRL's; `beta` is then per token.",
    ),
    Difference(
        ours="dpo_loss, label_smoothing",
        peer="trl",
        theirs="DPOTrainer._compute_loss, loss_type=sigmoid, label_smoothing",
        call="dpo",
        draw=smoothed_batch,
        run=preferences.pairwise(dpo_loss),
        bridge=unsmoothed,
        wrt=("log_probs",),
        options={"loss_type": "sigmoid"},
        title="`dpo_loss` smooths labels (cDPO); TRL's `sigmoid` ignores `label_smoothing`",
        right="Ours: a setting that is silently ignored misleads. TRL smooths in `aot`, `robust` "
        "and `exo_pair` only; on single pairs `aot` is cDPO, and agrees.",
    ),
    Difference(
        ours="orpo_loss, a certain text",
        peer="trl",
        theirs="ORPOTrainer.odds_ratio_loss, a certain text",
        call="orpo_term",
        draw=certain_batch,
        run=lambda beta, **pair: orpo_loss(**pair, beta=beta)[0],
        expect=only_ours_finite,
        wrt=("chosen_log_probs", "rejected_log_probs"),
        dtypes=FLOAT32,
        title="`orpo_loss` caps the log-probability just below 0; TRL's gradient is NaN at 0",
        right="Ours: the odds of a certain text are infinite, and a step must survive them.",
    ),
    Difference(
        ours="kto_loss, saturated",
        peer="trl",
        theirs="KTOTrainer._compute_loss, saturated",
        call="kto",
        draw=saturated_batch,
        run=preferences.kto,
        expect=only_theirs_zero,
        wrt=("log_probs",),
        dtypes=FLOAT32,
        title="`kto_loss` computes `sigmoid(-x)`; TRL `1 - sigmoid(x)`, 0 in float32 beyond x = 17",
        right="Ours keeps all digits; the losses lost are below 1e-8, so nothing is trained "
        "differently.",
    ),
]
