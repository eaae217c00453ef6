"""Best of n: the estimator, which completion is picked, and that n = 1 is plain sampling."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.train import best_of_n
from rlhf_jax.train.best_of_n import expected_best, select_best
from rlhf_jax.train.evaluate import make_evaluate
from rlhf_jax.types import SpecialTokens, TextRollout

PAD, BOS, EOS, TARGET = 0, 1, 2, 5
SPECIAL = SpecialTokens(pad=PAD, bos=BOS, eos=EOS)
KEY = jax.random.key(3)


def score(frozen, rollout):
    """How often the completion says token 5, and a little for its other tokens to break ties."""
    del frozen
    mask = rollout.completion_mask
    said = jnp.sum((rollout.completion_tokens == TARGET) & mask, axis=1, dtype=jnp.float32)
    places = jnp.arange(1.0, 1.0 + mask.shape[1])[None]
    rest = jnp.where(mask, rollout.completion_tokens.astype(jnp.float32), 0.0)
    return said + 1e-3 * jnp.sum(rest * places, axis=1)


@pytest.fixture(scope="module")
def made(tiny_config, bigram_model, bigram_frozen, tiny_prompts):
    """`made(n, batch_size)`: the best of n, their scores, all scores and all samples."""

    @functools.cache
    def run(n, batch_size):
        common = {"special": SPECIAL, "batch_size": batch_size}
        draw = jax.jit(best_of_n.make_samples(bigram_model, tiny_config, n=n, **common))
        samples = draw(bigram_frozen.reference, tiny_prompts, KEY)
        return select_best(samples, score(None, samples).reshape(8, n)), samples

    return run


def of_every_n(values):
    """The expected best of n for all n there can be, [..., N]."""
    return np.stack([expected_best(values, n) for n in range(1, values.shape[-1] + 1)], axis=-1)


def rows(tree, index):
    return jax.tree.map(lambda x: np.asarray(x)[index], tree)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("n, batch_size", [(4, 8), (4, 12), (5, 3), (4, 128)])
def test_the_best_of_the_samples_is_picked(made, tiny_prompts, n, batch_size):
    (best, scores, everything), samples = made(n, batch_size)
    assert everything.shape == (8, n) and scores.shape == (8,)
    np.testing.assert_array_equal(scores, np.asarray(everything).max(axis=1))
    picked = np.arange(8) * n + np.asarray(everything).argmax(axis=1)
    same(rows(best, slice(None)), rows(samples, picked))
    np.testing.assert_allclose(score(None, best), scores, rtol=1e-5)
    same(best.prompt_tokens, tiny_prompts.tokens)  # padding prompts of the last batch are gone
    assert (np.asarray(scores) > np.asarray(everything).mean(axis=1)).any()
    completions = np.asarray(samples.completion_tokens).reshape(8, n, -1)
    assert (completions[:, 0] != completions[:, 1]).any(axis=1).sum() >= 7


def test_the_best_of_1_is_plain_sampling(
    made, tiny_config, bigram_model, bigram_frozen, tiny_prompts
):
    (best, _, everything), samples = made(1, 3)
    evaluate = make_evaluate(bigram_model, tiny_config, special=SPECIAL, gold=None, batch_size=3)
    plain = jax.jit(evaluate)(bigram_frozen.reference, bigram_frozen, tiny_prompts, KEY).rollout
    assert everything.shape == (8, 1)
    same(best.completion_tokens, plain.completion_tokens)
    same(samples.completion_mask, plain.completion_mask)


def numbered(count):
    column = np.arange(count, dtype=np.int32)[:, None]
    return TextRollout(
        prompt_tokens=column,
        prompt_mask=column >= 0,
        completion_tokens=column,
        completion_mask=column >= 0,
        behavior_log_probs=column.astype(np.float32),
    )


@pytest.mark.parametrize("convert", [np.asarray, jnp.asarray])
def test_the_first_of_equals_wins_and_a_nan_is_seen(convert):
    scores = convert(np.array([[1.0, 3.0, 3.0], [2.0, np.nan, 5.0]], np.float32))
    best, found, _ = select_best(jax.tree.map(convert, numbered(6)), scores)
    assert best.completion_tokens[:, 0].tolist() == [1, 4]
    assert float(found[0]) == 3.0 and np.isnan(found[1])


def test_completions_are_cut_at_their_end(tiny_config, bigram_model, bigram_frozen, tiny_prompts):
    sampling = dataclasses.replace(tiny_config.sampling, stop_at_eos=False, max_length=12)
    config = dataclasses.replace(tiny_config, sampling=sampling)
    samples = jax.jit(best_of_n.make_samples(bigram_model, config, n=2, special=SPECIAL))
    found = samples(bigram_frozen.reference, tiny_prompts, KEY)
    ends = (np.asarray(found.completion_tokens) == EOS).sum(axis=1)
    assert (
        ends.max() == 1
        and (np.asarray(found.completion_tokens)[~found.completion_mask] == PAD).all()
    )


class TestEstimator:
    """`expected_best`."""

    def test_it_is_the_mean_over_all_subsets(self):
        proxy = np.sort(np.random.default_rng(0).normal(size=7))
        gold = np.random.default_rng(1).normal(size=7)  # in the order of the proxy
        for values in (proxy, gold):
            subsets = [list(itertools.combinations(range(7), n)) for n in range(1, 8)]
            expected = [np.mean([values[max(s)] for s in group]) for group in subsets]
            np.testing.assert_allclose(of_every_n(values), expected, rtol=1e-12)

    def test_the_weights_are_binomials_also_where_these_are_huge(self):
        count = 300
        weights = of_every_n(np.eye(count))  # [i, n]
        for n in (1, 2, 17, 150, 299, 300):
            exact = [math.comb(i, n - 1) / math.comb(count, n) for i in range(count)]
            np.testing.assert_allclose(weights[:, n - 1], exact, rtol=1e-10, atol=1e-200)

    def test_it_runs_from_the_mean_to_the_maximum(self):
        values = np.sort(np.random.default_rng(2).normal(size=(3, 2000)), axis=1)
        found = of_every_n(values)
        assert found.shape == values.shape and np.isfinite(found).all()
        np.testing.assert_allclose(found[:, 0], values.mean(axis=1), rtol=1e-10)
        np.testing.assert_allclose(found[:, -1], values[:, -1], rtol=1e-12)
        assert (np.diff(found, axis=1) >= -1e-12).all()

    def test_it_is_unbiased_where_the_maximum_of_one_group_is_noisy(self):
        draws = np.sort(np.random.default_rng(3).uniform(size=(4000, 8)), axis=1)
        found = of_every_n(draws)
        expected = np.arange(1, 9) / np.arange(2, 10)  # the maximum of n uniform numbers
        errors = np.abs(found.mean(axis=0) - expected)
        assert (errors < 4 * found.std(axis=0) / 4000**0.5).all()
        alone = draws[:, :4].max(axis=1)  # of sorted draws: not a sample of 4 at all
        assert abs(alone.mean() - expected[3]) > 0.1
