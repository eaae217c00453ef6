"""Settings of networks, optimizers, sampling and the two supervised stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from rlhf_jax.config.fields import (
    BELOW_ONE,
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    choice,
    dynamic,
    number,
)


@dataclass(frozen=True)
class ModelConfig:
    """Decoder-only transformer; `configs/model/{tiny,small,base}.yaml` are the sizes."""

    layers: int = number(2, POSITIVE)
    width: int = number(64, POSITIVE)
    heads: int = number(4, POSITIVE)
    kv_heads: int = number(2, POSITIVE)
    ff_width: int = number(192, POSITIVE)
    context: int = number(64, POSITIVE)  # longest text, prompt and completion together
    rope_theta: float = number(10000.0, POSITIVE)
    tied: bool = True  # the output head is the token embedding
    embedding_std: float = number(0.1, POSITIVE)  # at the start; the input is scaled back to 1
    dtype: str = choice("float32", "bfloat16")  # of the matrix products; parameters stay float32
    # Who mixes the values outside of sampling: us, or jax.nn.dot_product_attention by its name.
    attention: str = choice("own", "xla", "cudnn")
    value_head: str = choice(
        "separate", "shared", "shared_stop_gradient", "top_k_layers", "separate_matched"
    )
    value_layers: int = number(1, POSITIVE)  # the value function's own, in top_k_layers
    value_init: str = choice("reward_model", "random", "zero")


@dataclass(frozen=True)
class OptimConfig:
    """Adam with decoupled weight decay, global-norm clipping and a schedule over updates."""

    learning_rate: float = dynamic(1e-3, POSITIVE)
    schedule: str = choice("constant", "linear", "cosine")
    warmup: float = number(0.0, BELOW_ONE)  # share of all optimizer steps
    final_scale: float = dynamic(0.0, NOT_NEGATIVE)  # at the end, as a share of the peak
    beta1: float = dynamic(0.9, BELOW_ONE)
    beta2: float = dynamic(0.999, BELOW_ONE)
    epsilon: float = dynamic(1e-8, POSITIVE)
    weight_decay: float = dynamic(0.0, NOT_NEGATIVE)
    max_grad_norm: Optional[float] = dynamic(1.0, POSITIVE)  # None: not clipped
    epsilon_style: str = choice("optax", "tensorflow")  # beside the corrected or the raw root
    anneal_per: str = choice("step", "update")  # how often the schedule moves
    value_rate_factor: Optional[float] = dynamic(None, POSITIVE)  # None: one optimizer for all


@dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning, or pretraining from scratch: next-token cross-entropy."""

    steps: int = number(1000, POSITIVE)
    batch_size: int = number(64, POSITIVE)
    log_every: int = number(20, POSITIVE)
    optim: OptimConfig = field(default_factory=OptimConfig)


@dataclass(frozen=True)
class RewardModelConfig:
    """Reward model fitted to preference pairs by the Bradley-Terry likelihood."""

    steps: int = number(300, POSITIVE)
    batch_size: int = number(64, POSITIVE)  # pairs
    log_every: int = number(20, POSITIVE)
    margin: float = dynamic(0.0, NOT_NEGATIVE)  # scales the margin stored with each pair
    centering_coef: float = dynamic(0.0, NOT_NEGATIVE)  # pulls the mean of the two scores to 0
    head_init: str = choice("inverse_sqrt", "inverse", "zero")  # its scale, of the width plus 1
    # To mean 0, and variance 1, over reference samples: afterwards, and before training.
    normalize: str = choice("scale", "shift", "none")
    normalize_before: bool = False
    optim: OptimConfig = field(default_factory=OptimConfig)


@dataclass(frozen=True)
class SamplingConfig:
    """How completions are drawn, in training and afterwards."""

    temperature: float = dynamic(1.0, POSITIVE)
    top_k: int = number(0, NOT_NEGATIVE)  # 0: all tokens
    top_p: float = number(1.0, POSITIVE_SHARE)
    min_length: int = number(1, NOT_NEGATIVE)  # no end of sequence before this many
    max_length: int = number(24, POSITIVE)
    stop_at_eos: bool = True  # else always max_length tokens in training, cut at EOS to be scored
