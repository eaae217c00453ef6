"""The cases: what TRL is told, what our settings are, and what is drawn for both."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from experiments._schemas import register_schemas
from rlhf_jax.config import RLHFConfig
from rlhf_jax.train.batches import minibatches
from rlhf_jax.train.state import policy_gradient, stream
from rlhf_jax.types import SpecialTokens

SPECIAL = SpecialTokens(pad=0, bos=1, eos=2)
VOCAB, PROMPT, LENGTH, BATCH, UPDATES = 32, 6, 8, 16, 2
RATE = 2**-9  # a power of two: the same in either precision
KEY = jax.random.key(0)

# All that is set beside the preset: sizes, the rate, and the parametrisation of a Llama.
SIZES = [
    "model.width=32", "model.heads=4", "model.kv_heads=2", "model.ff_width=48", "model.tied=false",
    "model.embedding_std=1.0", f"algo.updates={UPDATES}", f"algo.batch_size={BATCH}",
    "algo.minibatches=2", f"sampling.max_length={LENGTH}", f"optim.learning_rate={RATE}",
]  # fmt: skip
LLAMA = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
ARGS = {
    "learning_rate": RATE,
    "total_episodes": UPDATES * BATCH,
    "response_length": LENGTH,
    "num_mini_batches": 2,
    "per_device_train_batch_size": BATCH,
    "missing_eos_penalty": 1.0,  # that of TRL's documentation; its default is None
}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One run of each side: two updates, from the same weights, on the same rollouts.

    Attributes:
        title: what the table calls it.
        dtype: of everything, on both sides.
        args: changes to `PPOConfig`.
        overrides: changes to `preset=trl1`.
        layers: of every model.
        value_bias: whether the head of TRL's value model has a bias.
    """

    title: str
    dtype: str
    args: dict[str, Any] = dataclasses.field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    layers: int = 2
    value_bias: bool = True

    @property
    def id(self) -> str:
        return f"{self.title} [{self.dtype}]"


def whitened(dtype: str, title: str = "whitened rewards, k3", **changes: Any) -> Case:
    """The two options of `PPOConfig` that change the rewards. One layer, for quick programs."""
    overrides = ("algo.whiten_rewards=keep_mean", "algo.kl_estimator=k3")
    args = {"whiten_rewards": True, "kl_estimator": "k3"} | changes.pop("args", {})
    return Case(title, dtype, args, overrides, layers=1, **changes)


SPLIT = {"per_device_train_batch_size": BATCH // 2, "gradient_accumulation_steps": 2}
PLAIN = [Case("defaults", dtype) for dtype in ("float32", "float64")]
WHITENED = [whitened(dtype) for dtype in ("float32", "float64")]
COMPARED = [*PLAIN, *WHITENED]
ACCUMULATED = whitened("float64", "accumulated gradients", args=SPLIT)
WITHOUT_BIAS = whitened("float32", "value head without a bias", value_bias=False)
CASES = [*COMPARED, ACCUMULATED, WITHOUT_BIAS]


@functools.cache
def composed(case: Case, *more: str) -> RLHFConfig:
    """`preset=trl1` at the size of the tests."""
    register_schemas(base_rlhf=RLHFConfig)
    overrides = ["preset=trl1", *SIZES, f"model.layers={case.layers}", *case.overrides, *more]
    with initialize_config_module("configs", version_base="1.3"):
        config = OmegaConf.to_object(compose("rlhf", overrides=overrides))
    assert isinstance(config, RLHFConfig)
    return config


def prompts() -> np.ndarray:
    """Left-padded, [UPDATES BATCH, PROMPT]: as many tokens as there is room for, or fewer."""
    rng = np.random.default_rng(0)
    pads = np.arange(UPDATES * BATCH)[:, None] % PROMPT
    tokens = rng.integers(3, VOCAB, (UPDATES * BATCH, PROMPT))
    slots = np.arange(PROMPT)[None]
    tokens[slots == pads] = SPECIAL.bos
    return np.where(slots >= pads, tokens, SPECIAL.pad)


def completions() -> np.ndarray:
    """Draws [UPDATES, BATCH, LENGTH]: EOS at once, early, in the last two slots, or never (0)."""
    rng = np.random.default_rng(1)
    ends = [[1, 2, 8, 0, 7, 3, 4, 0, 5, 6, 8, 0, 2, 1, 7, 0], [0, 7, 3, 1, 8, 0, 5, 4] * 2]
    tokens = rng.integers(3, VOCAB, (UPDATES, BATCH, LENGTH))
    tokens[np.arange(LENGTH) == np.array(ends)[..., None] - 1] = SPECIAL.eos
    return tokens


def orders(config: RLHFConfig) -> np.ndarray:
    """Rows in the order in which our epochs take them, [UPDATES, epochs, BATCH]."""
    algo = policy_gradient(config)
    keys = [stream(KEY, "minibatches", i) for i in range(UPDATES * algo.epochs)]
    rows = [minibatches(jnp.arange(BATCH), key, algo.minibatches) for key in keys]
    return np.stack(rows).reshape(UPDATES, algo.epochs, BATCH)
