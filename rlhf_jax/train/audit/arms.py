"""What the audit compares: every surrogate, and every place and estimator of the KL penalty."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from rlhf_jax.config import PolicyGradientConfig
from rlhf_jax.config.algo import PER_TOKEN

# `adaptive_kl_penalty` is `kl_penalty` with a coefficient that moves between updates.
SURROGATES = (
    "clip",
    "asymmetric_clip",
    "dual_clip",
    "log_clip",
    "none",
    "kl_penalty",
    "cispo",
    "gspo",
    "reinforce",
)
ESTIMATORS = ("k1", "k2", "k3", "full")
TEXT_KL = "text KL"
# Of configs/algo: what these surrogates were published with, unless the algorithm has its own.
PUBLISHED = {
    "asymmetric_clip": {"clip_eps_high": 0.28},
    "cispo": {"clip_eps_high": 0.28},
    "gspo": {"clip_eps": 0.02},
}


@dataclass(frozen=True)
class Arm:
    """One way to turn the same samples into a gradient."""

    name: str
    group: str  # arms of a group are shown together
    algo: PolicyGradientConfig  # of its loss
    advantages: str = "score"  # which of the batch's advantages it has
    note: str = ""


def surrogate_arms(algo: PolicyGradientConfig) -> list[Arm]:
    """Every surrogate on the advantages of the score alone, without a KL to the reference."""
    arms = []
    for name in SURROGATES:
        changed = bare(with_surrogate(algo, name), kl_placement="none", kl_importance=False)
        averages = name == "gspo" and algo.advantage in PER_TOKEN
        note = "gives all tokens of a text the mean of their advantages" if averages else ""
        arms.append(Arm(name, "surrogate, no KL", changed, note=note))
    return arms


def kl_arms(algo: PolicyGradientConfig) -> list[Arm]:
    """The algorithm's own surrogate with the KL in the reward, or in the loss, by each estimator.

    In the loss with and without `kl_importance`, the probability ratio as a factor.
    """
    return [
        *(reward_arm(algo, e, f"reward {e}") for e in ESTIMATORS),
        *(loss_arm(algo, e, False, "score") for e in ESTIMATORS),
        *(loss_arm(algo, e, True, "score") for e in ESTIMATORS),
    ]


def kl_terms(algo: PolicyGradientConfig) -> list[Arm]:
    """What the KL adds to the gradient in each arm of `kl_arms`, by itself, and the KL of texts.

    In the reward that is the policy gradient of the KL's share of the advantages. The last arm is
    the gradient of a text's KL: exact at each token, plus what the token does to later ones.
    """
    plain = dataclasses.replace(algo, surrogate="none", log_ratio_clip=None)
    text = loss_arm(plain, "full", False, "later")
    return [
        *(reward_arm(plain, e, f"share {e}") for e in ESTIMATORS),
        *(loss_arm(plain, e, False, "zero") for e in ESTIMATORS),
        *(loss_arm(plain, e, True, "zero") for e in ESTIMATORS),
        dataclasses.replace(text, name=TEXT_KL, group="KL of the text"),
    ]


def reward_arm(algo: PolicyGradientConfig, estimator: str, advantages: str) -> Arm:
    """The KL is in the advantages already; the loss has none."""
    settings = {"kl_placement": "reward", "kl_estimator": estimator, "kl_importance": False}
    return Arm(f"reward {estimator}", "KL in the reward", bare(algo, **settings), advantages)


def loss_arm(algo: PolicyGradientConfig, estimator: str, importance: bool, advantages: str) -> Arm:
    """A KL term beside the surrogate."""
    settings = {"kl_placement": "loss", "kl_estimator": estimator, "kl_importance": importance}
    suffix, group = (" x ratio", ", times the ratio") if importance else ("", "")
    name = f"loss {estimator}{suffix}"
    return Arm(name, f"KL in the loss{group}", bare(algo, **settings), advantages)


def own_surrogate(algo: PolicyGradientConfig) -> str:
    """The name of the arm with the algorithm's own surrogate."""
    return algo.surrogate.removeprefix("adaptive_")


def with_surrogate(algo: PolicyGradientConfig, surrogate: str) -> PolicyGradientConfig:
    """The algorithm with another surrogate, at the clip range that one is used with.

    >>> ppo = PolicyGradientConfig(clip_eps=0.1)
    >>> [with_surrogate(ppo, name).clip_eps for name in ("clip", "none", "gspo")]
    [0.1, 0.1, 0.02]
    """
    if own_surrogate(algo) == surrogate:
        return algo
    widths = {"clip_eps": algo.clip_eps, "clip_eps_high": None}
    if algo.surrogate == "gspo":  # its range is that of whole texts
        widths["clip_eps"] = PolicyGradientConfig.clip_eps
    widths |= PUBLISHED.get(surrogate, {})
    return dataclasses.replace(algo, surrogate=surrogate, **widths)


def bare(algo: PolicyGradientConfig, **changes: str | bool) -> PolicyGradientConfig:
    """The algorithm's policy loss and KL term alone, without values and entropy bonus."""
    alone = {"vf_coef": 0.0, "entropy_coef": 0.0, "whiten_over": "batch"}
    return dataclasses.replace(algo, **alone, **changes)  # pyright: ignore[reportArgumentType]


def must_agree(arms: list[Arm]) -> list[Arm]:
    """The surrogates whose gradients are one and the same while every ratio is 1."""
    return [arm for arm in arms if not arm.note]
