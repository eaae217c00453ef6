"""Answers from TRL 1.9.2, the last with PPO. Only its live functions are called.

Its advantages, surrogate and value loss stand inline in `PPOTrainer.train` and cannot be called
alone: they are held to ours by the parity of a whole update.
"""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import torch
from protocol import serve
from torch_worker import evaluator, reward_loss
from trl import RewardTrainer
from trl.experimental.ppo import ppo_trainer as ppo
from trl.experimental.utils import get_reward
from trl.trainer.utils import entropy_from_logits, selective_log_softmax


def masked_whiten(x, mask, shift_mean):
    """Whitened; what TRL leaves on padding is another question (see the differences)."""
    whitened = ppo.masked_whiten(x, mask, shift_mean=shift_mean)
    return torch.where(mask, whitened, 0.0)


def finished(tokens, eos_id, pad_id):
    """The mask TRL's PPO makes of a completion: up to and with the EOS."""
    cut = ppo.truncate_response(eos_id, pad_id, tokens)
    length = ppo.first_true_indices(cut == pad_id)
    return torch.arange(tokens.shape[1])[None] < length[:, None]


def last_score(scores, tokens, pad_id):
    """`get_reward` with a backbone whose hidden states are the scores of all slots."""
    model = SimpleNamespace(base_model_prefix="backbone", score=lambda hidden: hidden)
    model.backbone = lambda **_: SimpleNamespace(hidden_states=[scores[..., None]])
    return get_reward(model, tokens, pad_id, context_length=0)[1]


FUNCTIONS = {
    "masked_mean": lambda x, mask, axis: ppo.masked_mean(x, mask, axis),
    "masked_var": lambda x, mask, unbiased: ppo.masked_var(x, mask, unbiased),
    "masked_whiten": masked_whiten,
    "masked_whiten_raw": lambda x, mask: ppo.masked_whiten(x, mask),
    "finished": finished,
    "last_score": last_score,
    "selective_log_softmax": lambda logits, tokens: selective_log_softmax(logits, tokens),
    "entropy_from_logits": lambda logits: entropy_from_logits(logits),
    "reward_loss": partial(reward_loss, RewardTrainer),
}

if __name__ == "__main__":
    serve(evaluator(FUNCTIONS))
