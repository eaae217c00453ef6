"""The reward model: what is scored, how accuracy is counted, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import OptimConfig, RewardModelConfig, split_dynamic
from rlhf_jax.models.value_heads import init_head
from rlhf_jax.train import reward_model
from rlhf_jax.train.loop import repeat
from rlhf_jax.types import PairBatch, Sequences

KEY = jax.random.key(0)


def texts_with(token, seed, count=5):
    """Texts of 3 to 5 tokens with `token` somewhere and junk as padding."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(7, 12, (count, 5)).astype(np.int32)
    tokens[np.arange(count), rng.integers(0, 3, count)] = token
    mask = np.arange(5)[None] < rng.integers(3, 6, (count, 1))
    return Sequences(tokens=jnp.asarray(tokens), mask=jnp.asarray(mask))


def pairs_of(chosen, rejected, margin):
    """Pairs without prompts."""
    ones = jnp.ones(len(margin), jnp.int32)
    return PairBatch(chosen=chosen, rejected=rejected, margin=margin, prompt_length=ones)


@pytest.fixture(scope="module")
def pairs():
    """Texts with a 5 are preferred to texts with a 6."""
    chosen, rejected = texts_with(5, seed=0), texts_with(6, seed=1)
    return pairs_of(chosen, rejected, jnp.ones(5))


@pytest.fixture(scope="module")
def scores(tiny_model):
    return jax.jit(lambda params, pairs: reward_model.pair_scores(tiny_model, params, pairs))


def with_other_padding(pairs, token):
    def change(texts):
        return Sequences(tokens=jnp.where(texts.mask, texts.tokens, token), mask=texts.mask)

    return pairs_of(change(pairs.chosen), change(pairs.rejected), pairs.margin)


def test_scores_ignore_padding(scores, tiny_frozen, pairs):
    before = scores(tiny_frozen.reward, pairs)
    after = scores(tiny_frozen.reward, with_other_padding(pairs, 3))
    np.testing.assert_allclose(before, after, atol=1e-6)
    assert np.std(before) > 1e-3


@pytest.mark.parametrize("batch_size", [2, 256])
def test_accuracy_is_the_share_of_pairs_ranked_right(
    tiny_model, scores, tiny_frozen, pairs, batch_size
):
    chosen, rejected = scores(tiny_frozen.reward, pairs)
    expected = np.mean(np.asarray(chosen) > np.asarray(rejected))
    evaluate = jax.jit(reward_model.make_evaluate(tiny_model, batch_size))
    assert float(evaluate(tiny_frozen.reward, pairs)) == pytest.approx(expected)
    swapped = pairs_of(pairs.rejected, pairs.chosen, pairs.margin)
    assert float(evaluate(tiny_frozen.reward, swapped)) == pytest.approx(1 - expected)


def test_a_tie_counts_half(tiny_model, tiny_frozen, pairs):
    head = init_head(KEY, 16, scale="zero")
    params = {"trunk": tiny_frozen.reference, "head": head}
    assert float(jax.jit(reward_model.make_evaluate(tiny_model))(params, pairs)) == 0.5


@pytest.fixture(scope="module")
def trained(tiny_model, tiny_frozen, pairs):
    """`trained(**settings)` after 40 steps: the state and the metrics of the last step."""
    base = RewardModelConfig(steps=40, batch_size=5, optim=OptimConfig(learning_rate=0.01))
    static, hparams = split_dynamic(base)
    run = jax.jit(repeat(reward_model.make_train_step(tiny_model, static)))
    start = reward_model.init(tiny_frozen.reference, 16, base, KEY)

    def train(**settings):
        state, _ = run(start, pairs, hparams | settings, jnp.int32(39))
        return run(state, pairs, hparams | settings, jnp.int32(1))

    return train


def test_it_learns_which_token_is_preferred(tiny_model, trained):
    state, metrics = trained()
    assert float(metrics["loss"]) < 0.1 and float(metrics["accuracy"]) == 1.0
    unseen = pairs_of(texts_with(5, seed=8), texts_with(6, seed=9), jnp.zeros(5))
    evaluate = jax.jit(reward_model.make_evaluate(tiny_model))
    assert float(evaluate(state.params, unseen)) >= 0.8


def test_centering_pulls_the_mean_score_to_0(trained, scores, pairs):
    offsets = []
    for coef in (0.0, 1.0):
        state, _ = trained(centering_coef=coef)
        offsets.append(abs(float(np.mean(scores(state.params, pairs)))))
    assert offsets[1] < 0.2 < 3 * offsets[0]


def test_a_margin_drives_the_scores_further_apart(trained, scores, pairs):
    gaps = []
    for margin in (0.0, 3.0):
        chosen, rejected = scores(trained(margin=margin)[0].params, pairs)
        gaps.append(float(jnp.mean(chosen - rejected)))
    assert gaps[1] > gaps[0] + 0.5


def test_a_confidence_is_the_mean_over_the_label(tiny_config, bigram_model, bigram_frozen):
    rng = np.random.default_rng(0)
    sides = [Sequences(tokens=t, mask=t > 0) for t in jnp.asarray(rng.integers(3, 12, (2, 4, 5)))]
    rest = {"margin": jnp.full(4, 0.3), "prompt_length": jnp.full(4, 2, jnp.int32)}
    config = dataclasses.replace(tiny_config.reward_model, batch_size=4, margin=1.0)
    static, hparams = split_dynamic(config)
    hparams = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(type(x))), hparams)
    step = jax.jit(reward_model.make_train_step(bigram_model, static))
    start = reward_model.init(bigram_frozen.reference, 16, config, jax.random.key(0))

    def loss(first, second, confidence):
        pairs = PairBatch(chosen=first, rejected=second, confidence=confidence, **rest)
        return float(step(start, pairs, hparams)[1]["loss"])

    as_said, swapped = loss(*sides, None), loss(*sides[::-1], None)
    assert abs(as_said - swapped) > 1e-2
    assert loss(*sides, jnp.full(4, 0.8)) == pytest.approx(0.8 * as_said + 0.2 * swapped, rel=1e-5)
    assert loss(*sides, jnp.ones(4)) == pytest.approx(as_said, rel=1e-6)
