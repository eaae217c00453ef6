"""Supervised fine-tuning: what is counted, and that it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import OptimConfig, SFTConfig, split_dynamic
from rlhf_jax.models.transformer import make_language_model
from rlhf_jax.train import sft
from rlhf_jax.train.loop import repeat
from rlhf_jax.types import Sequences, SpecialTokens

KEY = jax.random.key(0)
CYCLE = np.arange(5) + np.arange(3)[:, None] * 2 + 3  # 3 4 5 6 7, 5 6 7 8 9, 7 8 9 10 11


@pytest.fixture(scope="module")
def texts():
    """Five texts that count upwards, of different lengths, with junk as padding."""
    tokens = jnp.asarray(np.concatenate([CYCLE, CYCLE[:2]]), jnp.int32)
    mask = jnp.arange(5)[None] < jnp.array([5, 3, 4, 5, 2])[:, None]
    return Sequences(tokens=tokens, mask=mask)


def mean_loss(model, params, texts):
    """Cross-entropy per predicted token, text by text and token by token."""
    forward, losses = jax.jit(model.apply), []
    for row, real in zip(np.asarray(texts.tokens), np.asarray(texts.mask)):
        tokens = jnp.asarray(row[None])
        log_probs = jax.nn.log_softmax(forward(params, tokens, jnp.asarray(real[None])).logits[0])
        losses += [-float(log_probs[t, row[t + 1]]) for t in range(4) if real[t + 1]]
    return np.mean(losses)


def test_the_loss_ignores_padding(tiny_model, tiny_frozen, texts):
    loss = jax.jit(lambda p, t: sft.text_loss(tiny_model, p, t).value())
    expected = mean_loss(tiny_model, tiny_frozen.reference, texts)
    assert float(loss(tiny_frozen.reference, texts)) == pytest.approx(expected, abs=1e-5)
    tokens = jnp.where(texts.mask, texts.tokens, 11)
    other = loss(tiny_frozen.reference, Sequences(tokens=tokens, mask=texts.mask))
    assert float(other) == pytest.approx(expected, abs=1e-5)
    rolled = [np.roll(row, 5 - n) for row, n in zip(np.asarray(tokens), (5, 3, 4, 5, 2))]
    on_the_left = Sequences(tokens=jnp.asarray(rolled), mask=texts.mask[:, ::-1])
    other = loss(tiny_frozen.reference, on_the_left)
    assert float(other) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("batch_size", [2, 64])
def test_evaluation_is_the_mean_over_all_tokens(tiny_model, tiny_frozen, texts, batch_size):
    evaluate = jax.jit(sft.make_evaluate(tiny_model, batch_size))
    expected = mean_loss(tiny_model, tiny_frozen.reference, texts)
    assert float(evaluate(tiny_frozen.reference, texts)) == pytest.approx(expected, abs=1e-5)


def test_it_learns_to_count(tiny_model):
    texts = Sequences(tokens=jnp.asarray(CYCLE, jnp.int32), mask=jnp.ones((3, 5), bool))
    config = SFTConfig(steps=60, batch_size=3, optim=OptimConfig(learning_rate=0.02))
    static, hparams = split_dynamic(config)
    run = jax.jit(repeat(sft.make_train_step(tiny_model, static)))
    state = jax.jit(lambda key: sft.init(tiny_model, config, key))(KEY)
    state, first = run(state, texts, hparams, jnp.int32(1))
    state, _ = run(state, texts, hparams, jnp.int32(58))
    state, last = run(state, texts, hparams, jnp.int32(1))
    assert float(first["loss"]) > 1.5 and float(last["loss"]) < 0.1
    assert int(state.update) == 60 and int(state.skipped) == 0


def test_texts_that_share_a_row_do_not_predict_each_others_beginning(tiny_config):
    model = make_language_model(tiny_config.model, 12, SpecialTokens(pad=0, bos=1, eos=2))
    params = jax.jit(model.init)(KEY)
    tokens = jnp.array([[1, 3, 2, 1, 4, 2, 0]])
    batch = Sequences(tokens=tokens, mask=tokens != 0)
    logits = jax.jit(model.apply)(params, tokens, batch.mask).logits
    each = -jax.nn.log_softmax(logits[0, :-1])[jnp.arange(6), tokens[0, 1:]]
    loss = float(jax.jit(lambda p: sft.text_loss(model, p, batch).value())(params))
    assert loss == pytest.approx(float(each[jnp.array([0, 1, 3, 4])].mean()), abs=1e-5)
    assert loss < 10.0 < float(each[2])  # BOS has no probability
