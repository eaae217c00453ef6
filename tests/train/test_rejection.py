"""Rejection fine-tuning: what is likely afterwards, and which tokens count."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import RejectionConfig, split_dynamic
from rlhf_jax.sampling.decode import generate
from rlhf_jax.train import one_step, rejection
from rlhf_jax.train.loop import repeat
from rlhf_jax.types import SpecialTokens

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def config(tiny_config):
    optim = dataclasses.replace(tiny_config.optim, learning_rate=0.01)
    algo = RejectionConfig(updates=40, batch_size=8)
    return dataclasses.replace(tiny_config, algo=algo, optim=optim)


@pytest.fixture(scope="module")
def data(tiny_config, tiny_model, tiny_frozen, tiny_prompts):
    """A completion of each prompt by the reference."""
    sample = lambda params, prompts: generate(
        tiny_model,
        params,
        prompts,
        KEY,
        config=tiny_config.model,
        sampling=tiny_config.sampling,
        special=SpecialTokens(pad=0, bos=1, eos=2),
    )
    return jax.jit(sample)(tiny_frozen.reference, tiny_prompts)


@pytest.fixture(scope="module")
def run(config, tiny_model):
    return jax.jit(repeat(rejection.make_train_step(tiny_model, split_dynamic(config)[0])))


@pytest.fixture(scope="module")
def start(config, tiny_frozen):
    return one_step.init(config, tiny_frozen, KEY)


def numbers(config):
    hparams = split_dynamic(config)[1]
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(type(x))), hparams)


def loss(run, config, state, data):
    return float(run(state, data, numbers(config), jnp.int32(1))[1]["loss"])


def test_the_first_loss_is_the_samplers_own_surprise(run, config, start, data):
    mask = np.asarray(data.completion_mask)
    expected = -np.asarray(data.behavior_log_probs)[mask].mean()  # at the sampling temperature
    assert loss(run, config, start, data) == pytest.approx(expected, abs=1e-4)
    hot = dataclasses.replace(
        config, sampling=dataclasses.replace(config.sampling, temperature=1.0)
    )
    assert abs(loss(run, hot, start, data) - expected) > 0.01


def test_padding_does_not_count(run, config, start, data):
    junk = jnp.where(data.completion_mask, data.completion_tokens, 9)
    prompts = jnp.where(data.prompt_mask, data.prompt_tokens, 9)
    other = dataclasses.replace(data, completion_tokens=junk, prompt_tokens=prompts)
    assert loss(run, config, start, other) == pytest.approx(loss(run, config, start, data))


def test_the_completions_become_likely(run, config, start, data):
    before = loss(run, config, start, data)
    state, _ = run(start, data, numbers(config), jnp.int32(39))
    state, metrics = run(state, data, numbers(config), jnp.int32(1))
    assert float(metrics["loss"]) < before - 0.5
    assert int(state.update) == 40 and int(state.skipped) == 0
    assert metrics.keys() == {"loss", "tokens/completion_length", "grad_norm", "lr"}
    lengths = np.asarray(data.completion_mask).sum(axis=1)
    assert float(metrics["tokens/completion_length"]) == pytest.approx(lengths.mean())
