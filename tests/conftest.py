"""Strict settings for every test: no silent dtype or rank promotion."""

import dataclasses
import os
import sys

# The tests compile many tiny programs and run each for milliseconds: compile quickly instead.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1",
)

import absl.logging
import jax
import jax.numpy as jnp
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Hydra's set-up of logs closes all handlers; absl's would close what pytest captures by with it.
absl.logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture
def float64():
    """Runs one test in 64-bit floats."""
    with jax.enable_x64(True):
        yield


PAD, BOS, EOS, VOCAB = 0, 1, 2, 12


@pytest.fixture(scope="session")
def tiny_config():
    """Settings of a run small enough to compile in a second or two."""
    from rlhf_jax import config as schemas

    return schemas.RLHFConfig(
        model=schemas.ModelConfig(
            layers=1, width=16, heads=2, kv_heads=1, ff_width=32, context=32, dtype="float32"
        ),
        sampling=schemas.SamplingConfig(max_length=6, temperature=0.7),
        algo=schemas.PolicyGradientConfig(updates=10, batch_size=8, epochs=2, minibatches=2),
        optim=schemas.OptimConfig(learning_rate=3e-3),
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_config):
    """The model of `tiny_config` over 12 tokens (0 pad, 1 BOS, 2 EOS)."""
    from rlhf_jax.models.transformer import make_transformer

    return make_transformer(tiny_config.model, VOCAB)._replace(eos=2)


@pytest.fixture(scope="session")
def bigram_model(tiny_config):
    """A language model that reads the last token alone.

    For what is around a model, as training has it: it compiles in a fraction of the time.
    """
    from rlhf_jax.models.functional import Model
    from rlhf_jax.models.transformer import ModelOutput

    def init(key):
        shapes = {"hidden_vd": (VOCAB, tiny_config.model.width), "logits_vv": (VOCAB, VOCAB)}
        keys = jax.random.split(key, len(shapes))
        return {k: jax.random.normal(key, shapes[k]) for k, key in zip(shapes, keys)}

    def apply(params, tokens, mask, *, cache=None, window=None, tap=None):
        del tap
        assert mask.shape == tokens.shape
        last = jnp.where(mask, tokens, 0)
        last = last if window is None else last[:, window[0] : window[1]]
        if cache is not None:
            cache = dataclasses.replace(cache, length=cache.length + tokens.shape[1])
        return ModelOutput(
            logits=params["logits_vv"][last], hidden=params["hidden_vd"][last], cache=cache
        )

    return Model(init, apply, eos=2)


@pytest.fixture(scope="session")
def bigram_frozen(bigram_model, tiny_config):
    """A reference and a reward model of bigrams."""
    from rlhf_jax.models.value_heads import init_head
    from rlhf_jax.train.state import Frozen

    keys = jax.random.split(jax.random.key(0), 3)
    reward = {"trunk": bigram_model.init(keys[1]), "head": init_head(keys[2], 16)}
    return Frozen(reference=bigram_model.init(keys[0]), reward=reward)


@pytest.fixture(scope="session")
def tiny_frozen(tiny_config, tiny_model):
    """A reference and a reward model with different random parameters."""
    from rlhf_jax.models.value_heads import init_head
    from rlhf_jax.train.state import Frozen

    keys = jax.random.split(jax.random.key(0), 3)
    head = init_head(keys[2], tiny_config.model.width)
    # Sharper than a fresh model, so that a mistaken temperature or position shows.
    trunk = jax.tree.map(lambda x: 2.0 * x, jax.jit(tiny_model.init)(keys[0]))
    return Frozen(
        reference=trunk, reward={"trunk": jax.jit(tiny_model.init)(keys[1]), "head": head}
    )


@pytest.fixture(scope="session")
def tiny_prompts():
    """Eight left-padded prompts of 1 to 4 tokens."""
    import numpy as np

    from rlhf_jax.types import Sequences

    lengths = np.array([4, 1, 2, 3, 4, 2, 3, 1])[:, None]
    mask = np.arange(4)[None] >= 4 - lengths
    tokens = np.random.default_rng(0).integers(3, VOCAB, mask.shape).astype(np.int32)
    tokens[np.arange(8), 4 - lengths[:, 0]] = BOS
    return jax.tree.map(jax.numpy.asarray, Sequences(tokens=np.where(mask, tokens, PAD), mask=mask))
