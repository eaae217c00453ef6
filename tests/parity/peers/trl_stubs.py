"""Stub models for the trainers of current TRL: ours are the log-probabilities or the logits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from trl.trainer.utils import add_fused_lm_head

PROMPT = 2  # tokens before each completion


IGNORED = -100


def number(x: Any) -> Any:
    """What a config holds: a plain number."""
    return x.item() if isinstance(x, torch.Tensor) else x


class LogProbModel(torch.nn.Module):
    """Returns given log-probabilities of the completion; 0 at ignored labels, as TRL's head."""

    def __init__(self, *log_probs: torch.Tensor):
        super().__init__()
        self.log_probs = log_probs  # the i-th answers inputs filled with token i

    def forward(self, input_ids, labels, **_: Any) -> SimpleNamespace:
        log_probs = self.log_probs[int(input_ids[0, 0])]
        wanted = labels[:, 1:] != IGNORED
        padded = F.pad(log_probs, (wanted.shape[1] - log_probs.shape[1], 0))
        zeros = torch.zeros_like(padded)
        return SimpleNamespace(
            log_probs=torch.where(wanted, padded, 0.0),
            entropy=zeros,
            mean_logits=zeros,
            log_sum_sq_probs=zeros,
            is_top1=zeros > 0,
        )


class LogitModel(torch.nn.Module):
    """TRL's own fused head over a backbone whose hidden states are the logits: its head is 1."""

    def __init__(self, logits: torch.Tensor, temperature: float = 1.0):
        super().__init__()
        eye = torch.eye(logits.shape[-1], dtype=logits.dtype)
        self.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(model_type="stub"))
        self.base_model = lambda **_: SimpleNamespace(last_hidden_state=logits)
        self.get_output_embeddings = lambda: SimpleNamespace(weight=eye, bias=None)
        add_fused_lm_head(self, temperature=temperature, outputs=("log_probs", "entropy"))
