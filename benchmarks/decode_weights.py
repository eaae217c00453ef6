"""Our language model as a folder that `transformers` reads: a Llama in safetensors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from rlhf_jax.config import ModelConfig
from rlhf_jax.types import Params

Arrays = dict[str, np.ndarray]


def block(params: Params, prefix: str) -> Arrays:
    """One block. Torch keeps a linear layer as [out, in], we as [in, out] with the heads apart."""
    attention, ff = params["attention"], params["ff"]
    out_of = lambda x: np.asarray(x).reshape(x.shape[0], -1).T
    named = {
        "input_layernorm": np.asarray(params["attention_norm"]["scale"]),
        "post_attention_layernorm": np.asarray(params["ff_norm"]["scale"]),
        "self_attn.q_proj": out_of(attention["query_dnh"]),
        "self_attn.k_proj": out_of(attention["key_dkh"]),
        "self_attn.v_proj": out_of(attention["value_dkh"]),
        "self_attn.o_proj": np.asarray(attention["out_nhd"]).reshape(-1, prefix_width(params)).T,
        "mlp.gate_proj": out_of(ff["gate_df"]),
        "mlp.up_proj": out_of(ff["up_df"]),
        "mlp.down_proj": out_of(ff["down_fd"]),
    }
    return {f"{prefix}.{name}.weight": x for name, x in named.items()}


def prefix_width(params: Params) -> int:
    """Width of the residual stream of a block."""
    return params["attention_norm"]["scale"].shape[0]


def llama(params: Params, config: ModelConfig) -> Arrays:
    """All weights by the names of `LlamaForCausalLM`.

    What enters our first block is the embedding over its standard deviation, which a Llama does not
    divide by, so its embedding and its head are two.
    """
    embedding = np.asarray(params["embedding_vd"])
    head = embedding if config.tied else np.asarray(params["head_vd"])
    arrays = {
        "model.embed_tokens.weight": embedding / config.embedding_std,
        "lm_head.weight": head,
        "model.norm.weight": np.asarray(params["final_norm"]["scale"]),
    }
    for i in range(config.layers):
        arrays |= block(params[f"block_{i}"], f"model.layers.{i}")
    return arrays


def write_folder(folder: Path, params: Params, config: ModelConfig, vocab_size: int) -> None:
    """Writes config.json and model.safetensors."""
    settings = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": config.width,
        "intermediate_size": config.ff_width,
        "max_position_embeddings": config.context,
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_theta": config.rope_theta,
        "tie_word_embeddings": False,
        "vocab_size": vocab_size,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n")
    arrays = {k: np.ascontiguousarray(x, np.float32) for k, x in llama(params, config).items()}
    save_file(arrays, folder / "model.safetensors", metadata={"format": "pt"})
