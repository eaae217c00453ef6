"""What the workers of both TRL versions share: tensors in, values and gradients out, and stubs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from protocol import Arrays, cotangent

ACCELERATOR = Accelerator(cpu=True)


def tensor(x: np.ndarray, requires_grad: bool) -> torch.Tensor:
    if x.dtype == np.int32:
        x = x.astype(np.int64)
    return torch.tensor(x, requires_grad=requires_grad)


def gradient(x: torch.Tensor) -> np.ndarray:
    return (torch.zeros_like(x) if x.grad is None else x.grad).detach().numpy()


def evaluator(functions: dict[str, Callable[..., Any]]) -> Callable[..., Arrays]:
    """Runs one of `functions` with autograd. It returns the value, or a dict of it and others."""

    def evaluate(function: str, arrays: Arrays, wrt: list[str], options: dict[str, Any]) -> Arrays:
        double = any(x.dtype == np.float64 for x in arrays.values())
        # Or TRL's divisions of counts would be in float32.
        torch.set_default_dtype(torch.float64 if double else torch.float32)
        inputs = {name: tensor(x, name in wrt) for name, x in arrays.items()}
        out = functions[function](**inputs, **options)
        out = out if isinstance(out, dict) else {"value": out}
        answer = {name: x.detach().numpy() for name, x in out.items()}
        if wrt:
            value = out["value"]
            weights = torch.tensor(cotangent(tuple(value.shape)), dtype=value.dtype)
            value.backward(weights)
            answer |= {f"grad_{name}": gradient(inputs[name]) for name in wrt}
        return answer

    return evaluate


def training_model() -> Any:
    """What a loss asks of `self.model`, where the log-probabilities come from elsewhere."""
    return SimpleNamespace(training=True, is_gradient_checkpointing=False)


def bare(trainer_class: type, **attributes: Any) -> Any:
    """A trainer without its set-up: only what the method under test reads."""
    trainer = object.__new__(trainer_class)
    trainer.accelerator = ACCELERATOR
    trainer.model = training_model()
    trainer.aux_loss_enabled = False
    trainer._metrics = {"train": defaultdict(list), "eval": defaultdict(list)}
    trainer._total_train_tokens, trainer._tp_size = 0, 1
    for name, value in attributes.items():
        setattr(trainer, name, value)
    return trainer


def reward_loss(
    trainer_class: type, chosen_scores, rejected_scores, margin=None, centering=None
) -> torch.Tensor:
    """`RewardTrainer.compute_loss` on the scores of pairs."""
    coefficient = None if centering is None else centering.item()
    trainer = bare(trainer_class, args=SimpleNamespace(center_rewards_coefficient=coefficient))
    logits = torch.cat([chosen_scores, rejected_scores])[:, None]
    inputs = {"attention_mask": torch.ones(len(logits), 1)}
    if margin is not None:
        inputs["margin"] = margin
    return trainer.compute_loss(lambda **_: SimpleNamespace(logits=logits), inputs)
