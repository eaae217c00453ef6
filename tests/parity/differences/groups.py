"""Where we differ from TRL's GRPO and from rlax on purpose."""

from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import numpy as np

from rlhf_jax.ops.advantages import grpo_advantages

from .. import draws
from ..cases import Arrays, Difference, only_ours_finite
from ..comparisons import advantages, clips, policy_gradients, rlax

GRPODifference = partial(Difference, peer="trl", call="grpo", wrt=("log_probs",))


FLOAT32 = ("float32",)


def equal_scores(rng: np.random.Generator, draw: int) -> Arrays:
    return {"scores": np.repeat(rng.uniform(100, 1000, (3, 1)), 6, axis=1)}


def only_theirs_noise(ours: Arrays, theirs: Arrays) -> bool:
    return bool(np.all(ours["value"] == 0) and np.abs(theirs["value"]).max() > 0.01)


def small_delta_batch(rng: np.random.Generator, draw: int) -> Arrays:
    batch = clips.clipped_batch(rng, draw)
    batch["advantages"] = np.array([1.0, -1.0, 0.5, -2.0])
    batch["behavior_log_probs"] = batch["log_probs"] - rng.normal(size=batch["log_probs"].shape)
    return batch | {
        "epsilon_high": np.array(0.6),
        "delta": 1 + draws.number(rng, 0.1, 0.3),
        "mask": np.ones_like(batch["mask"]),
    }


def clamp_before_the_minimum(mask, advantages, log_probs, epsilon_high, delta, **rest):
    """A delta inside the clip replaces it for good tokens and has no effect on bad ones."""
    per_token = partial(clips.clip, log_probs, advantages=advantages, **rest)
    good = per_token(epsilon_high=delta - 1)
    bad = per_token(epsilon_high=epsilon_high, delta=1 + epsilon_high)
    spread = clips.tokenwise(advantages, log_probs)
    return clips.reduced(jnp.where(spread > 0, good, bad), mask, "sequence_mean")


def default_cispo_batch(rng: np.random.Generator, draw: int) -> Arrays:
    batch = policy_gradients.cispo_batch(rng, draw)
    batch["advantages"] = np.abs(rng.normal(size=draws.ROWS)) + 0.1
    return batch | {"epsilon_high": np.array(0.2)}


def cispo_by_name(epsilon_high, **batch):
    return policy_gradients.cispo(epsilon_high=1 + epsilon_high, **batch)


def emptied_batch(rng: np.random.Generator, draw: int) -> Arrays:
    """One text without a token that counts, as truncated ones under TRL's mask for them."""
    batch = clips.clipped_batch(rng, draw)
    mask = batch["mask"].copy()
    mask[1] = False
    return batch | {"mask": mask, "advantages": np.abs(batch["advantages"]) + 0.5}


def counting_empty(loss_type):
    def run(mask, **arrays):
        share = jnp.mean(jnp.any(mask, axis=1), dtype=arrays["log_probs"].dtype)
        return {name: share * x for name, x in clips.clipped(loss_type)(mask, **arrays).items()}

    return run


def empty_text(loss_type: str) -> Difference:
    return GRPODifference(
        ours=f"aggregate, {clips.AGGREGATION[loss_type]}, a text without real tokens",
        theirs=f"GRPOTrainer._compute_loss, loss_type={loss_type}, a text without real tokens",
        draw=emptied_batch,
        run=clips.clipped(loss_type),
        bridge=counting_empty(loss_type),
        options={"loss_type": loss_type, "max_completion_length": clips.MAX_LENGTH},
        title="`aggregate` does not count a text without real tokens; TRL's "
        f"{loss_type} divides by all rows",
        right="Ours: such a text was masked out and says nothing, so the step on the others must "
        "not shrink with it. TRL's is the plain batch mean, harmless where no text is masked out.",
    )


def far_batch(rng: np.random.Generator, draw: int) -> Arrays:
    """One token of a good text is e^100 times likelier than at sampling."""
    batch = clips.clipped_batch(rng, draw)
    behavior = batch["behavior_log_probs"].copy()
    behavior[0, 0] = batch["log_probs"][0, 0] - 100
    return batch | {"behavior_log_probs": behavior, "advantages": np.ones(draws.ROWS)}


def far_reference_batch(rng: np.random.Generator, draw: int) -> Arrays:
    batch = clips.reference_batch(rng, draw)
    ours = batch["log_probs"].copy()
    ours[0, 0] = batch["ref_log_probs"][0, 0] - 100
    return batch | {"log_probs": ours, "behavior_log_probs": ours}


def far_rlax_batch(rng: np.random.Generator, draw: int) -> Arrays:
    batch = rlax.token_batch(rng, draw)
    behavior = batch["behavior_log_probs"].copy()
    behavior[0, 0] = batch["log_probs"][0, 0] - 100
    return batch | {"behavior_log_probs": behavior, "advantages": np.ones_like(behavior)}


OVERFLOW = (
    "Ours: the clip makes such a token's gradient 0. In float32 the peer's ratio overflows, and "
    "the branch the clip discards still sends `0 * inf` back; one token spoils the whole step."
)


DIFFERENCES = [
    Difference(
        ours="grpo_advantages",
        peer="trl",
        theirs="GRPOTrainer._generate_and_score_completions",
        call="grpo_advantages",
        draw=advantages.score_batch,
        run=grpo_advantages,
        bridge=partial(grpo_advantages, ddof=1, epsilon=1e-4),
        dtypes=FLOAT32,
        title="`grpo_advantages` divides by the standard deviation of the group itself; TRL by the "
        "sample estimate (G - 1), plus 1e-4",
        right="Either: the paper does not say. Ours gives every group the same mean square of 1; "
        "`ddof=1, epsilon=1e-4` is TRL's.",
    ),
    Difference(
        ours="grpo_advantages, equal scores",
        peer="trl",
        theirs="GRPOTrainer._generate_and_score_completions, equal scores",
        call="grpo_advantages",
        draw=equal_scores,
        run=grpo_advantages,
        expect=only_theirs_noise,
        dtypes=FLOAT32,
        title="A group of equal scores has advantages of exactly 0; TRL's are rounding noise over "
        "1e-4: up to 0.37 for six scores of some hundreds",
        right="Ours: nothing can be learnt from equal scores. We subtract the first score before "
        "the mean is taken.",
    ),
    GRPODifference(
        ours="ppo_clip_loss, dual_clip inside the clip",
        theirs="GRPOTrainer._compute_loss, loss_type=grpo, delta inside the clip",
        draw=small_delta_batch,
        run=clips.clipped("grpo"),
        bridge=clamp_before_the_minimum,
        options={"loss_type": "grpo", "max_completion_length": clips.MAX_LENGTH},
        title="`dual_clip` bounds the loss of bad tokens only; TRL's `delta` caps the ratio before "
        "the minimum",
        right="Ours is Eq. 5 of Ye et al. 2020, TRL's is INTELLECT-2's. They are the same for "
        "`delta > 1 + epsilon_high`, about as TRL advises, and the table shows it; below it TRL's "
        "clips good tokens earlier and bounds bad ones at `1 + epsilon_high`, not at `delta`.",
    ),
    GRPODifference(
        ours="cispo_loss, clip_high 0.2",
        theirs="GRPOTrainer._compute_loss, loss_type=cispo, epsilon_high 0.2",
        draw=default_cispo_batch,
        run=cispo_by_name,
        bridge=policy_gradients.cispo,
        options={"loss_type": "cispo"},
        title="`cispo_loss` caps the weight at `1 + clip_high`; TRL at `epsilon_high`",
        right="Ours is the `clip(r, 1 - eps_low, 1 + eps_high)` of the CISPO paper; TRL's is the "
        "cap of ScaleRL, for which it recommends 5. But its default is the 0.2 of PPO's clip, and "
        "with that nearly every token counts a fifth.",
    ),
    empty_text("grpo"),
    empty_text("dr_grpo"),
    empty_text("luspo"),
    GRPODifference(
        ours="ppo_clip_loss, ratio e^100",
        theirs="GRPOTrainer._compute_loss, loss_type=grpo, ratio e^100",
        draw=far_batch,
        run=clips.clipped("grpo"),
        expect=only_ours_finite,
        options={"loss_type": "grpo"},
        dtypes=FLOAT32,
        title="A clipped token far off the sampler has gradient 0; TRL's is NaN",
        right=OVERFLOW,
    ),
    GRPODifference(
        ours="kl_k3, log-ratio 100",
        theirs="GRPOTrainer._compute_loss, loss_type=grpo, beta, log-ratio 100",
        draw=far_reference_batch,
        run=clips.with_kl("grpo"),
        expect=only_ours_finite,
        options={"loss_type": "grpo"},
        dtypes=FLOAT32,
        title="`kl_k3` is capped at e^80; TRL's is inf beyond e^88",
        right="Ours: a finite gradient can be clipped by its norm, an infinite one cannot.",
    ),
    Difference(
        ours="ppo_clip_loss, ratio e^100",
        peer="rlax",
        theirs="clipped_surrogate_pg_loss, ratio e^100",
        call="clipped_surrogate",
        draw=far_rlax_batch,
        run=rlax.clipped,
        expect=only_ours_finite,
        wrt=("log_probs",),
        dtypes=FLOAT32,
        title="A clipped token far off the sampler has gradient 0; with rlax it is NaN",
        right=OVERFLOW,
    ),
]
