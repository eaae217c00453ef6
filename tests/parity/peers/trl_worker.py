"""Answers from current TRL. Only its live functions and methods are called."""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
import trl_groups
import trl_preferences
from protocol import serve
from torch_worker import evaluator, reward_loss
from trl import RewardTrainer
from trl.rewards import get_soft_overlong_punishment
from trl.trainer.utils import entropy_from_logits, selective_log_softmax
from trl_stubs import LogitModel, number


def overlong(lengths, max_length, buffer) -> torch.Tensor:
    punish = get_soft_overlong_punishment(max_length, buffer)
    return torch.tensor(punish([[1] * int(n) for n in lengths]))


def fused_head(logits, tokens, temperature) -> torch.Tensor:
    """Log-probabilities and entropies of `tokens` from `add_fused_lm_head`, stacked."""
    padded = F.pad(logits, (0, 0, 0, 1))  # the head drops the last position and the first label
    out = LogitModel(padded, number(temperature))(labels=F.pad(tokens, (1, 0)), fused_lm_head=True)
    return torch.stack([out.log_probs, out.entropy])


FUNCTIONS = {
    "grpo": trl_groups.grpo,
    "grpo_clip_ratio": trl_groups.grpo_clip_ratio,
    "grpo_from_logits": trl_groups.grpo_from_logits,
    "rloo": trl_groups.rloo,
    "grpo_advantages": trl_groups.grpo_advantages,
    "rloo_advantages": trl_groups.rloo_advantages,
    "overlong": overlong,
    "dpo": trl_preferences.dpo,
    "dpo_pairwise": trl_preferences.dpo_pairwise,
    "kto": trl_preferences.kto,
    "orpo": trl_preferences.orpo,
    "orpo_term": trl_preferences.orpo_term,
    "simpo": trl_preferences.simpo,
    "cpo": trl_preferences.cpo,
    "reward_loss": partial(reward_loss, RewardTrainer),
    "fused_head": fused_head,
    "selective_log_softmax": lambda logits, tokens: selective_log_softmax(logits, tokens),
    "entropy_from_logits": lambda logits: entropy_from_logits(logits),
}

if __name__ == "__main__":
    serve(evaluator(FUNCTIONS))
