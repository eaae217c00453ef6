import numpy as np
import pytest

from rlhf_jax.tasks.reviews.annotator import (
    annotate,
    bayes_accuracy,
    draw_pairs,
    preference_probs,
)
from rlhf_jax.tasks.reviews.films import film_grammar
from rlhf_jax.tasks.reviews.grammar import compile_grammar


def test_worked_probabilities():
    even, sure = preference_probs(np.array([1.0, 9e9]), np.array([1.0, 0.0]), 1.0, 0.05)
    assert even == 0.5 and sure == pytest.approx(0.95)
    odds = 3.0  # a gap of 2 log 3 at temperature 2
    (q,) = preference_probs(np.array([2 * np.log(odds)]), np.zeros(1), 2.0, 0.1)
    assert q == pytest.approx(0.9 * 0.75 + 0.1 * 0.25)
    assert q != pytest.approx(0.75)  # flips forgotten
    assert q != pytest.approx(0.9 * 0.9 + 0.1 * 0.1)  # temperature forgotten


def test_bayes_accuracy_is_what_the_best_predictor_reaches():
    rng = np.random.default_rng(0)
    gold_a, gold_b = rng.normal(0, 2, (2, 40_000))
    probs = preference_probs(gold_a, gold_b, 1.0, 0.05)
    a_first = rng.random(40_000) < probs
    reached = (a_first == (gold_a > gold_b)).mean()
    assert abs(reached - bayes_accuracy(probs)) < 4 * 0.5 / 200


def test_labels_follow_their_probabilities_and_move_whole_texts():
    a, b = np.full((20_000, 3), 5), np.full((20_000, 3), 6)
    sizes = np.arange(20_000, dtype=np.int32)
    pairs = annotate(a, b, sizes, np.full(20_000, 0.8), np.random.default_rng(1))
    share = (pairs.chosen.tokens[:, 0] == 5).mean()
    assert abs(share - 0.8) < 4 * 0.4 / 20_000**0.5
    np.testing.assert_array_equal(pairs.chosen.tokens + pairs.rejected.tokens, 11)
    assert pairs.margin.dtype == np.float32 and not pairs.margin.any()
    np.testing.assert_array_equal(pairs.prompt_length, sizes)


def test_pairs_differ_but_share_an_opening():
    a, b, sizes = draw_pairs(film_grammar(), 400, (2, 6), 31, np.random.default_rng(2))
    assert (a != b).any(1).all()
    shared = np.cumprod(a == b, axis=1).sum(1)  # the continuations may start alike, too
    assert (shared >= sizes).all() and (shared == sizes).mean() > 0.1
    assert sizes.dtype == np.int32 and set(sizes) == {3, 4, 5, 6, 7}  # BOS and 2 to 6 words


def test_a_pair_drawn_again_keeps_the_length_of_its_own_opening():
    grammar = compile_grammar("A = a X f f\nX = b | c Y\nY = d | e")
    a, b, sizes = draw_pairs(grammar, 300, (1, 2), 8, np.random.default_rng(4))
    long = sizes == 3  # "a b" has one ending, so a pair of that opening was drawn again
    assert set(sizes) == {2, 3} and (a[:, 1] == b[:, 1]).all()
    assert (a[long, 2] == b[long, 2]).all() and (a[long, 2] == grammar.words.index("c")).all()
    assert (a[~long, 2] != b[~long, 2]).any()


def test_an_opening_with_one_continuation_is_an_error():
    with pytest.raises(ValueError, match="same text 100 times"):
        draw_pairs(compile_grammar("A = a b c"), 2, (1, 1), 6, np.random.default_rng(3))
