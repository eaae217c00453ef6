"""What must be seen when it is flipped, what is logged alike, and where we differ on purpose."""

from __future__ import annotations

import json

from .weights import Arrays

FLIPPED = {  # the setting, and after how many updates it must be seen
    "algo.score_placement=last_token": 1,
    "algo.whiten_variance=biased": 1,
    "algo.missing_eos=replace": 1,
    "optim.epsilon_style=tensorflow": 1,
    "optim.max_grad_norm=1.0": 1,
    "optim.anneal_per=step": 2,
    "algo.kl_coef=0.06": 1,
    "algo.gamma=0.99": 1,
    "algo.gae_lambda=0.96": 1,
    "algo.clip_eps=0.25": 1,
    "algo.value_clip_eps=0.25": 1,
    "algo.missing_eos_penalty=1.1": 1,
    "sampling.temperature=0.71": 1,
}
SAME = (
    "objective/kl",
    "objective/non_score_reward",
    "policy/clipfrac_avg",
    "loss/policy_avg",
    "loss/value_avg",
    "val/num_eos_tokens",
    "lr",
    "episode",
)
DIFFERENCES = {  # by the test that pins each: what differs, who is right
    "test_with_accumulated_gradients_trl_has_no_minibatches": (
        "With `gradient_accumulation_steps` = G > 1 TRL steps after every G parts of "
        "`per_device_train_batch_size` rows: once an epoch, whatever `num_mini_batches` up to G, "
        "along the mean of the parts' means. On the last batch of a pass over the prompts it steps "
        "after every part, with a G-th of the gradient",
        "Ours: `algo.minibatches` steps an epoch, each a mean over tokens. Accelerate takes the "
        "parts for batches of the data loader, and ends an accumulation where the data end. TRL's "
        "metrics then also count entries that were never filled in. (Asked in its issue 5645.) "
        "The parity above is without accumulation",
    ),
    "test_float64_sees_what_trl_adds_to_the_temperature": (
        "TRL divides logits by the temperature plus 1e-7",
        "Ours: a temperature of 0 is refused, so nothing need be added. Float32 does not see it; "
        "the float64 rows above have it in ours, too",
    ),
    "test_the_bias_of_our_value_head_is_not_in_trls": (
        "The head of our value function has a bias; that of transformers' models, which TRL "
        "trains, has none. Above TRL's was given one",
        "Either; a bias follows the mean return at once. The policy of the first update "
        "does not depend on it",
    ),
    "test_metrics_of_the_same_name_agree_or_differ_as_we_say": (
        "`objective/entropy` counts a pad as -1; `policy/approxkl_avg`, `policy/entropy_avg` and "
        "`val/ratio` are means over pads, too; `objective/scores` and `objective/rlhf_reward` are "
        "after the penalty for a missing end",
        "Ours: means over tokens, and scores as the reward gave them",
    ),
}


def logged(answer: Arrays) -> list[dict[str, float]]:
    """TRL's metrics, and `steps` of its optimizer so far, after each update."""
    return json.loads(str(answer["metrics"]))
