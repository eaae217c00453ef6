"""Weights of a Hugging Face Llama in the layout of our transformer."""

from __future__ import annotations

import numpy as np

from rlhf_jax.config import ModelConfig
from rlhf_jax.types import Params

Arrays = dict[str, np.ndarray]


def block(named: Arrays, prefix: str, config: ModelConfig) -> Params:
    """One block. Torch keeps a linear layer as [out, in], we as [in, out] with the heads apart."""
    d, head = config.width, config.width // config.heads
    get = lambda name: named[f"{prefix}.{name}.weight"]
    split = lambda name, count: get(name).T.reshape(d, count, head)
    return {
        "attention_norm": {"scale": get("input_layernorm")},
        "ff_norm": {"scale": get("post_attention_layernorm")},
        "attention": {
            "query_dnh": split("self_attn.q_proj", config.heads),
            "key_dkh": split("self_attn.k_proj", config.kv_heads),
            "value_dkh": split("self_attn.v_proj", config.kv_heads),
            "out_nhd": get("self_attn.o_proj").T.reshape(config.heads, head, d),
        },
        "ff": {
            "gate_df": get("mlp.gate_proj").T,
            "up_df": get("mlp.up_proj").T,
            "down_fd": get("mlp.down_proj").T,
        },
    }


def trunk(named: Arrays, config: ModelConfig) -> Params:
    """The language model; the output head is 0 in a model that scores, which has none."""
    embedding = named["model.embed_tokens.weight"]
    blocks = {f"block_{i}": block(named, f"model.layers.{i}", config) for i in range(config.layers)}
    return blocks | {
        "embedding_vd": embedding,
        "final_norm": {"scale": named["model.norm.weight"]},
        "head_vd": named.get("lm_head.weight", np.zeros_like(embedding)),
    }


def scored(named: Arrays, config: ModelConfig) -> Params:
    """A reward or value model; a head without a bias has one of 0."""
    weight = named["score.weight"]
    bias = named.get("score.bias", np.zeros(1, weight.dtype))
    return {
        "trunk": trunk(named, config),
        "head": {"weight_d": weight[0], "bias": bias[0]},
    }


def named(answer: Arrays, prefix: str) -> Arrays:
    """The arrays of an answer under a prefix, by the rest of their name."""
    prefix = f"{prefix}."
    return {k.removeprefix(prefix): x for k, x in answer.items() if k.startswith(prefix)}
