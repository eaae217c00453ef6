"""A network of equal blocks is traced as one block."""

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.config import ModelConfig
from rlhf_jax.models import blocks
from rlhf_jax.models.transformer import make_transformer


@pytest.mark.parametrize("window, traces", [(None, 1), ((1, 3), 2)])
def test_equal_blocks_are_traced_once(monkeypatch, window, traces):
    config = ModelConfig(layers=4, width=8, heads=2, kv_heads=1, ff_width=24 + traces)
    model, calls = make_transformer(config, 7), []
    forward = blocks.Block.__call__
    counted = lambda self, *args: calls.append(1) or forward(self, *args)
    monkeypatch.setattr(blocks.Block, "__call__", counted)
    tokens = jnp.ones((2, 5), jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0))
    jax.eval_shape(lambda p: model.apply(p, tokens, tokens > 0, window=window).logits, params)
    assert len(calls) == traces  # the last block has the window to itself
