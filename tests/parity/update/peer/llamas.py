"""Random Llamas for the trainer, and Llama in float64 throughout."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding


class Networks(NamedTuple):
    policy: LlamaForCausalLM
    reference: LlamaForCausalLM
    reward: LlamaForSequenceClassification
    value: LlamaForSequenceClassification


def randomize(model: torch.nn.Module) -> None:
    """Weights that keep the scale of what passes through; norms around 1; biases around 0."""
    for name, x in model.named_parameters():
        noise = torch.randn(x.shape)
        if "norm" in name:
            x.data = 1.0 + 0.2 * noise
        elif "embed" in name or x.ndim == 1:
            x.data = noise
        else:
            x.data = noise * x.shape[-1] ** -0.5


def networks(sizes: dict[str, Any], seed: int, value_bias: bool) -> Networks:
    """A policy, a reference near it, a reward and a value model with weights of their own.

    The value model's head may have a bias, as ours has; that of transformers has none.
    """
    torch.manual_seed(seed)
    config = LlamaConfig(**sizes, num_labels=1, rms_norm_eps=1e-6, tie_word_embeddings=False)
    policy, reward, value = (
        LlamaForCausalLM(config),
        LlamaForSequenceClassification(config),
        LlamaForSequenceClassification(config),
    )
    value.score = torch.nn.Linear(config.hidden_size, 1, bias=value_bias)
    for model in (policy, reward, value):
        randomize(model)
    reference = copy.deepcopy(policy)
    for x in reference.parameters():  # or the KL, and what it does to the rewards, would be 0
        x.data *= 1.0 + 0.2 * torch.randn(x.shape)
    return Networks(policy, reference, reward, value)


def norm(self: LlamaRMSNorm, x: torch.Tensor) -> torch.Tensor:
    variance = x.pow(2).mean(-1, keepdim=True)
    return self.weight * (x * torch.rsqrt(variance + self.variance_epsilon))


def rotary(self: LlamaRotaryEmbedding, x: torch.Tensor, position_ids: torch.Tensor):
    width = 2 * len(self.inv_freq)
    base = self.config.rope_parameters["rope_theta"]
    frequencies = base ** -(torch.arange(0, width, 2, dtype=x.dtype) / width)
    angles = position_ids[..., None].to(x.dtype) * frequencies
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


@contextlib.contextmanager
def exact(wanted: bool) -> Iterator[None]:
    """Llama without its casts to float32, where wanted."""
    with contextlib.ExitStack() as stack:
        if wanted:
            stack.enter_context(mock.patch.object(LlamaRMSNorm, "forward", norm))
            stack.enter_context(mock.patch.object(LlamaRotaryEmbedding, "forward", rotary))
        yield
