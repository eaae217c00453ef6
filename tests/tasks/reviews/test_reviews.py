import dataclasses

import jax
import numpy as np
import pytest

from rlhf_jax.config import ConfigError, ReviewsConfig
from rlhf_jax.tasks.reviews import make_reviews
from rlhf_jax.tasks.reviews.annotator import preference_probs
from rlhf_jax.tasks.reviews.films import film_grammar
from rlhf_jax.tasks.reviews.sampler import log_prob
from rlhf_jax.tasks.reviews.vocabulary import UnknownWordError
from rlhf_jax.tasks.tokens import BOS, EOS, PAD

SMALL = ReviewsConfig(num_texts=500, num_pairs=600, num_prompts=300)


@pytest.fixture(scope="module")
def task():
    return make_reviews(SMALL)


def _leaves(task):
    kinds = (task.train_text, task.heldout_text, task.train_pairs, task.heldout_pairs)
    return jax.tree.leaves((*kinds, task.train_prompts, task.eval_prompts))


def test_arrays_are_numpy_of_the_promised_kinds(task):
    assert {leaf.dtype.name for leaf in _leaves(task)} == {"int32", "bool", "float32"}
    assert all(isinstance(leaf, np.ndarray) for leaf in _leaves(task))
    assert len(task.train_text.tokens) == 500 and len(task.heldout_text.tokens) == 2000
    assert len(task.train_pairs.margin) == len(task.heldout_pairs.margin) == 600
    assert len(task.train_pairs.prompt_length) == len(task.heldout_pairs.prompt_length) == 600
    assert task.train_prompts.tokens.shape == (300, 7)
    assert task.eval_prompts.tokens.shape == (1024, 7)


def test_texts_are_whole_and_prompts_lean_left(task):
    for texts in (task.train_text, task.heldout_text, task.train_pairs.chosen):
        last = texts.mask.sum(1) - 1
        assert (texts.tokens[:, 0] == BOS).all()
        assert (texts.tokens[np.arange(len(last)), last] == EOS).all()
        np.testing.assert_array_equal(texts.mask, texts.tokens != PAD)
        assert np.isfinite(log_prob(film_grammar(), texts.tokens)).all()
    prompts = task.eval_prompts
    assert prompts.mask[:, -1].all() and (np.diff(prompts.mask.astype(int), axis=1) >= 0).all()
    assert set(prompts.mask.sum(1)) == {3, 4, 5, 6, 7}  # BOS and 2 to 6 words
    assert np.isfinite(log_prob(film_grammar(), prompts.tokens)).all()


def test_both_texts_of_a_pair_begin_with_its_prompt(task):
    for pairs in (task.train_pairs, task.heldout_pairs):
        chosen, rejected, sizes = pairs.chosen.tokens, pairs.rejected.tokens, pairs.prompt_length
        inside = np.arange(chosen.shape[1])[None] < sizes[:, None]
        assert (chosen == rejected)[inside].all()
        assert (chosen != rejected)[np.arange(len(sizes)), sizes].any()  # not longer than it says
        assert set(sizes) == {3, 4, 5, 6, 7} and sizes.dtype == np.int32  # as the prompts have


def test_codec_round_trip(task):
    codec = task.codec
    for row in task.heldout_text.tokens[:200]:
        assert codec.encode(codec.decode(row)) == [i for i in row if i > EOS]
    assert codec.decode(codec.encode("  the plot was  dull .")) == "the plot was dull ."
    assert (codec.pad_id, codec.bos_id, codec.eos_id) == (0, 1, 2)


@pytest.mark.parametrize(
    "word, hint",
    [("wonderfull", "'wonderful'"), ("Plot", "'plot'"), ("<eos>", ""), ("zq", "close")],
)
def test_an_unknown_word_is_named_with_its_neighbours(task, word, hint):
    with pytest.raises(UnknownWordError, match=f"'{word}' is not among.*{hint}"):
        task.codec.encode(f"the {word}")


def test_the_same_seed_gives_the_same_task_and_another_does_not(task):
    again, other = make_reviews(SMALL), make_reviews(dataclasses.replace(SMALL, data_seed=1))
    for a, b in zip(_leaves(task), _leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert again.facts == task.facts
    assert (other.train_text.tokens != task.train_text.tokens).any()


def test_parts_do_not_depend_on_each_others_size(task):
    more = make_reviews(dataclasses.replace(SMALL, num_texts=5, num_prompts=7))
    np.testing.assert_array_equal(more.train_pairs.chosen.tokens, task.train_pairs.chosen.tokens)
    np.testing.assert_array_equal(more.eval_prompts.tokens, task.eval_prompts.tokens)


def test_train_and_evaluation_data_are_drawn_apart(task):
    assert (task.train_text.tokens != task.heldout_text.tokens[:500]).any(1).mean() > 0.9
    assert (task.train_prompts.tokens != task.eval_prompts.tokens[:300]).any(1).mean() > 0.9
    chosen, heldout = task.train_pairs.chosen.tokens, task.heldout_pairs.chosen.tokens
    assert (chosen != heldout).any(1).mean() > 0.9


def test_bayes_accuracy_is_reached_by_gold_on_the_heldout_pairs():
    task = make_reviews(dataclasses.replace(SMALL, num_pairs=2048))
    pairs = task.heldout_pairs
    chosen, rejected = (task.gold(x.tokens, x.mask) for x in (pairs.chosen, pairs.rejected))
    best = task.facts["bayes_pair_accuracy"]
    assert 0.78 < best < 0.9
    right = np.where(chosen == rejected, 0.5, chosen > rejected)
    assert abs(right.mean() - best) < 4 * 0.4 / 2048**0.5
    q = preference_probs(np.asarray(chosen), np.asarray(rejected), 1.0, 0.05)
    assert np.maximum(q, 1 - q).mean() == pytest.approx(best)


def test_facts_are_consistent(task):
    facts = task.facts
    per_token = facts["entropy_per_text"] / facts["expected_length"]
    assert facts["entropy_per_token"] == pytest.approx(per_token)


@pytest.mark.parametrize(
    "key, value",
    [
        ("num_texts", 0),
        ("num_pairs", 0),
        ("num_prompts", -1),
        ("min_prompt", 0),
        ("min_prompt", 7),
        ("max_prompt", 8),
        ("flip_rate", 0.5),
        ("flip_rate", -0.1),
        ("flip_rate", float("nan")),
        ("annotator_temperature", 0.0),
        ("annotator_temperature", float("inf")),
        ("data_seed", -1),
    ],
)
def test_settings_that_cannot_work_are_named(key, value):
    named = "max_prompt" if (key, value) == ("min_prompt", 7) else key
    with pytest.raises(ConfigError, match=f"^task.{named}="):
        make_reviews(dataclasses.replace(SMALL, **{key: value}))
