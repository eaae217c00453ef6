"""Pairs and their reference: which tokens count, padding, batches and mismatched texts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.train.preference_data import (
    completion_sums,
    make_data,
    make_reference_log_probs,
    mismatched_pairs,
)
from rlhf_jax.types import PairBatch, Sequences

BOS, EOS, WIDTH = 1, 2, 9
SIZES = [1, 3, 2, 4, 1]  # tokens of the prompts, BOS included
ANSWERS = [4, 5, 1, 2, 7]  # tokens of the completions, EOS included
JUNK = 11


def texts(seed, answers=ANSWERS):
    """Five texts with a prompt of their own and junk as padding."""
    prompts, rng = np.random.default_rng(99), np.random.default_rng(seed)
    rows = []
    for size, answer in zip(SIZES, answers):
        prompt = [BOS, *prompts.integers(3, 11, size - 1)]
        row = [*prompt, *rng.integers(3, 11, answer - 1), EOS]
        rows.append(row + [JUNK] * (WIDTH - len(row)))
    lengths = np.add(SIZES, answers)[:, None]
    mask = np.arange(WIDTH)[None] < lengths
    return Sequences(tokens=jnp.asarray(rows, jnp.int32), mask=jnp.asarray(mask))


@pytest.fixture(scope="module")
def pairs():
    return PairBatch(
        chosen=texts(0),
        rejected=texts(1, [7, 2, 1, 5, 2]),
        margin=jnp.zeros(5),
        prompt_length=jnp.asarray(SIZES, jnp.int32),
    )


@pytest.fixture(scope="module")
def sums(tiny_model, tiny_frozen):
    """`(texts, prompt_length) -> (sums, means)` under the reference."""
    return jax.jit(functools.partial(completion_sums, tiny_model, tiny_frozen.reference))


def loop(model, params, batch, sizes):
    """The log-prob of each completion, text by text without padding."""
    forward, totals = jax.jit(model.apply), []
    for row, real, size in zip(np.asarray(batch.tokens), np.asarray(batch.mask), sizes):
        tokens = jnp.asarray(row[None])
        logits = forward(params, tokens, jnp.asarray(real[None])).logits[0]
        log_probs = jax.nn.log_softmax(logits)
        totals.append(sum(float(log_probs[t - 1, row[t]]) for t in range(size, int(real.sum()))))
    return np.array(totals)


def test_sums_and_means_are_over_the_completion_alone(tiny_model, tiny_frozen, sums, pairs):
    found, means = sums(pairs.chosen, pairs.prompt_length)
    expected = loop(tiny_model, tiny_frozen.reference, pairs.chosen, SIZES)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(means, expected / np.array(ANSWERS), rtol=1e-5, atol=1e-5)
    whole, _ = sums(pairs.chosen, jnp.ones(5, jnp.int32))  # the prompt's tokens counted, too
    assert (np.asarray(whole)[[1, 2, 3]] < expected[[1, 2, 3]] - 0.1).all()
    np.testing.assert_allclose(np.asarray(whole)[[0, 4]], expected[[0, 4]], rtol=1e-5)


def test_no_gradient_reaches_the_prediction_of_the_prompt(tiny_model, tiny_frozen, pairs):
    def total(nudge):
        """As if each position's logits could be moved freely."""

        def apply(*args, window, **kwargs):
            output = tiny_model.apply(*args, window=window, **kwargs)
            return dataclasses.replace(output, logits=output.logits + nudge)

        model = tiny_model._replace(apply=apply)
        found = completion_sums(model, tiny_frozen.reference, pairs.chosen, pairs.prompt_length)
        return jnp.sum(found[0])

    gradient = np.asarray(jax.jit(jax.grad(total))(jnp.zeros((5, WIDTH - 1, 12))))
    moved = (np.abs(gradient) > 1e-9).any(-1)
    predicts = np.arange(1, WIDTH)[None]
    sizes, ends = np.array(SIZES)[:, None], np.add(SIZES, ANSWERS)[:, None]
    np.testing.assert_array_equal(moved, (predicts >= sizes) & (predicts < ends))


def test_padding_changes_nothing(sums, pairs):
    before = sums(pairs.chosen, pairs.prompt_length)
    tokens, mask = np.asarray(pairs.chosen.tokens), np.asarray(pairs.chosen.mask)
    other = Sequences(tokens=jnp.where(pairs.chosen.mask, pairs.chosen.tokens, 5), mask=mask)
    wide = Sequences(tokens=np.pad(tokens, [(0, 0), (0, 3)]), mask=np.pad(mask, [(0, 0), (0, 3)]))
    rolled = [(np.roll(t, -m.sum()), np.roll(m, -m.sum())) for t, m in zip(tokens, mask)]
    left = Sequences(tokens=np.stack([r[0] for r in rolled]), mask=np.stack([r[1] for r in rolled]))
    for same in (other, wide, left):
        after = sums(jax.tree.map(jnp.asarray, same), pairs.prompt_length)
        np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-5)


def test_a_text_that_is_all_prompt_has_log_prob_0(sums, pairs):
    found = sums(pairs.chosen, jnp.full(5, WIDTH, jnp.int32))
    np.testing.assert_array_equal(found, np.zeros((2, 5)))


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_the_cached_reference_equals_a_fresh_one(tiny_model, tiny_frozen, sums, pairs, batch_size):
    log_probs = jax.jit(make_reference_log_probs(tiny_model, batch_size))
    found = log_probs(tiny_frozen.reference, pairs)
    fresh = [sums(side, pairs.prompt_length)[0] for side in (pairs.chosen, pairs.rejected)]
    np.testing.assert_allclose(found, fresh, rtol=1e-5, atol=1e-5)


def mismatched_rows(texts):
    """Prompt i, completion i + 1, cut at the width."""
    tokens, mask = np.asarray(texts.tokens), np.asarray(texts.mask)
    rows = []
    for i in range(5):
        j = (i + 1) % 5
        rows.append([*tokens[i][: SIZES[i]], *tokens[j][mask[j]][SIZES[j] :]][:WIDTH])
    return rows


@pytest.mark.parametrize("on_host", [False, True])
def test_mismatched_texts_have_the_prompt_and_the_neighbours_completion(pairs, on_host):
    given = jax.tree.map(np.asarray, pairs) if on_host else pairs
    found = jax.tree.map(np.asarray, mismatched_pairs(given))
    np.testing.assert_array_equal(found.prompt_length, SIZES)
    for side in ("chosen", "rejected"):
        texts, expected = getattr(found, side), mismatched_rows(getattr(pairs, side))
        assert [t[m].tolist() for t, m in zip(texts.tokens, texts.mask)] == expected
        assert (np.diff(texts.mask.astype(int), axis=1) <= 0).all()
        assert texts.tokens.dtype == np.int32 and texts.tokens.shape == (5, WIDTH)
    # The fourth prompt has 4 tokens and the fifth completion 7: it loses its end.
    assert found.chosen.mask[3].all() and found.chosen.tokens[3, -1] != EOS


def test_without_prompts_a_mismatched_text_is_the_next_row(pairs):
    bare = dataclasses.replace(pairs, prompt_length=jnp.ones(5, jnp.int32))
    found = mismatched_pairs(bare).chosen
    np.testing.assert_array_equal(found.mask, np.roll(pairs.chosen.mask, -1, axis=0))
    real = np.asarray(found.mask)
    expected = np.roll(pairs.chosen.tokens, -1, axis=0)
    np.testing.assert_array_equal(np.asarray(found.tokens)[real], expected[real])


@pytest.mark.parametrize("loss", ["dpo", "simpo", "kto"])
def test_only_what_the_loss_needs_is_computed(tiny_model, tiny_frozen, sums, pairs, loss):
    data = jax.jit(make_data(tiny_model, loss))(tiny_frozen.reference, pairs)
    assert (data.mismatched is not None) == (loss == "kto")
    if loss == "simpo":
        assert not data.ref_chosen.any() and not data.ref_rejected.any()
        return
    expected = sums(pairs.rejected, pairs.prompt_length)[0]
    np.testing.assert_allclose(data.ref_rejected, expected, rtol=1e-5, atol=1e-5)
    if loss == "kto":
        other = data.mismatched
        expected = sums(other.pairs.chosen, pairs.prompt_length)[0]
        np.testing.assert_allclose(other.ref_chosen, expected, rtol=1e-5, atol=1e-5)
        assert np.abs(other.ref_chosen - data.ref_chosen).max() > 0.1
