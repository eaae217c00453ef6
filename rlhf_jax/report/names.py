"""What the logged numbers are called, in words and units a newcomer can read."""

from __future__ import annotations

import re
from typing import NamedTuple


class Quantity(NamedTuple):
    """A metric as shown to people."""

    label: str
    unit: str = ""
    meaning: str = ""


QUANTITIES = {
    "objective/scores": Quantity(
        "score trained on", "points", "what training is to raise; higher is better"
    ),
    "reward_model/score": Quantity(
        "reward-model score", "points", "of the learned reward model, where training has another"
    ),
    "gold/score": Quantity("gold reward", "points", "the task's true reward; higher is better"),
    "objective/kl": Quantity(
        "KL from the start", "nats/text", "how far the policy moved away from the SFT policy"
    ),
    "log_ratio": Quantity(
        "log(tuned/reference)", "nats", "log tuned / reference; over tuned texts its mean is the KL"
    ),
    "objective/kl_coef": Quantity("KL coefficient", "points/nat", "price of moving away"),
    "objective/entropy": Quantity(
        "entropy", "nats/text", "how varied the texts are; near 0: always the same text"
    ),
    "policy/entropy_avg": Quantity("entropy", "nats/token", "how open the choice of a token is"),
    "objective/rlhf_reward": Quantity("score minus KL cost", "points", "what PPO maximises"),
    "objective/non_score_reward": Quantity("KL cost", "points", "the part of the reward from KL"),
    "tokens/completion_length": Quantity("length", "tokens", "of a completion, its end included"),
    "tokens/finished": Quantity("finished texts", "share", "completions that end by themselves"),
    "gold/std": Quantity("spread of gold", "points", "standard deviation over completions"),
    "judge/score": Quantity("judge", "probability", "an independent classifier: is it positive?"),
    "judge/positive": Quantity("judged positive", "share", "completions the judge calls positive"),
    "val/num_eos_tokens": Quantity("finished texts", "texts", "completions that end by themselves"),
    "policy/approxkl_avg": Quantity("KL per update", "nats/token", "size of an update"),
    "policy/clipfrac_avg": Quantity("clipped tokens", "share", "tokens where the clip acts"),
    "loss/policy_avg": Quantity("policy loss"),
    "loss/value_avg": Quantity("value loss", "points²"),
    "val/ratio": Quantity("probability ratio", "", "new over old policy"),
    "val/ratio_first": Quantity(
        "first ratio", "", "before any step of the update; 1 if all is well"
    ),
    "val/ratio_first_error": Quantity(
        "first ratio's error",
        "",
        "largest |ratio - 1| before anything was learnt",
    ),
    "val/ratio_var": Quantity("spread of ratios", "", "variance of the probability ratio"),
    "val/clipfrac_avg": Quantity("clipped values", "share", "tokens where the value clip acts"),
    "val/skipped": Quantity(
        "skipped steps", "steps", "optimizer steps dropped because something was not finite"
    ),
    "val/explained_variance": Quantity("explained variance", "", "1: the critic is perfect"),
    "val/left_out": Quantity("left-out steps", "share", "minibatches where the policy was too far"),
    "loss/kl_avg": Quantity("KL in the loss", "nats"),
    "objective/kl_bound": Quantity("bound on the KL", "nats/text", "log n - (n - 1) / n"),
    "objective/kl_token": Quantity("KL from the start", "nats/token"),
    "rewards/chosen": Quantity("reward of chosen", "points", "implied by the policy"),
    "rewards/rejected": Quantity("reward of rejected", "points", "implied by the policy"),
    "rewards/margins": Quantity("margin", "points", "chosen minus rejected"),
    "rewards/accuracies": Quantity("pairs ranked right", "share", "by the implied rewards"),
    "exact/reward": Quantity("exact reward", "points", "summed over all completions"),
    "exact/gold": Quantity(
        "exact gold reward", "points", "the true one, where another is trained on"
    ),
    "exact/kl": Quantity("exact KL from the start", "nats/text", "summed over all completions"),
    "exact/entropy": Quantity("exact entropy", "nats/text"),
    "exact/objective": Quantity("exact objective", "points", "reward minus the price of the KL"),
    "exact/gap": Quantity(
        "gap to the optimum", "points", "price of a nat times KL(policy, optimum)"
    ),
    "exact/source_gap": Quantity(
        "gap to the optimum", "points", "with the task's source as the reference; from texts"
    ),
    "exact/source_gap_error": Quantity("error of that gap", "points", "one standard error"),
    "exact/gap_share": Quantity(
        "gap to the optimum", "share", "of the gap of the reference: 1 there, 0 at the optimum"
    ),
    "exact/kl_to_optimum": Quantity("KL to the optimum", "nats/text"),
    "exact/beta_eff": Quantity("price the policy behaves by", "points/nat"),
    "exact/beta_r2": Quantity("fit of that price", "share", "1: the policy is a tilted reference"),
    "exact/above_envelope": Quantity("reward above the possible", "points", "more than 0 is a bug"),
    "exact/kl_efficiency": Quantity(
        "KL efficiency", "share", "least KL for this reward over the KL spent"
    ),
    "loss": Quantity("loss", "nats"),
    "heldout_loss": Quantity("held-out loss", "nats"),
    "accuracy": Quantity("accuracy", "share", "pairs ranked as the annotator did"),
    "heldout_accuracy": Quantity("held-out accuracy", "share", "the same on unseen pairs"),
}


ALGORITHMS = {
    "ppo_penalty": "PPO with a penalty",
    "dr_grpo": "Dr. GRPO",
    "reinforce_moving": "REINFORCE, moving mean",
    "reinforce_pp": "REINFORCE++",
    "remax": "ReMax",
    "cdpo": "cDPO",
    "robust_dpo": "robust DPO",
    "hinge": "hinge (SLiC)",
    "simpo": "SimPO",
    "online_dpo": "online DPO",
    "best_of_n": "best of n",
    "rejection": "rejection fine-tuning",
    # Policies known without training from samples, on a report card.
    "optimal": "optimum",
    "ref": "reference",
    "reference": "reference",
    "bon": "best of n",
    "exact_gradient": "exact gradient",
}


def algorithm(name: str) -> str:
    """What an algorithm is called in print.

    >>> algorithm("ppo"), algorithm("online_dpo"), algorithm("rloo_k1_in_loss")
    ('PPO', 'online DPO', 'RLOO, k1 in loss')
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if best := re.fullmatch(r"best_of_(\d+)", name):
        return f"best of {best[1]}"
    base, _, variant = name.partition("_")
    return base.upper() + (f", {variant.replace('_', ' ')}" if variant else "")


def describe(metric: str) -> Quantity:
    """Label, unit and meaning of a metric; an unknown one is called by its own name.

    >>> describe("objective/kl").unit, describe("my/metric").label
    ('nats/text', 'my/metric')
    """
    return QUANTITIES.get(metric, Quantity(metric))


def labelled(metric: str) -> str:
    """Label with its unit, as on a plot's axis.

    >>> labelled("tokens/completion_length")
    'length (tokens)'
    """
    quantity = describe(metric)
    return f"{quantity.label} ({quantity.unit})" if quantity.unit else quantity.label
