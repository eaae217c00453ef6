import itertools

import numpy as np
import pytest

from rlhf_jax.tasks.reviews.exact import (
    entropy_per_text,
    expected_length,
    length_range,
)
from rlhf_jax.tasks.reviews.films import film_grammar
from rlhf_jax.tasks.reviews.grammar import FINISHED, START, compile_grammar
from rlhf_jax.tasks.reviews.rules import GrammarError, parse_rules
from rlhf_jax.tasks.reviews.sampler import (
    append_texts,
    draw_openings,
    draw_texts,
    log_prob,
    run_states,
)
from rlhf_jax.tasks.tokens import BOS, EOS, PAD, pad_rows

# Shares beginnings between alternatives, has an empty one and two ways to write "a b".
TINY = """
TEXT = 2 a X | 3 a Y Z   # both begin with a
     | b b
X    = b | 3 c
Y    = b | a
Z    = | c
"""
# By hand: P(TEXT -> aX, aYZ, bb) = 2/6, 3/6, 1/6.
TINY_TEXTS = {
    "a b": 2 / 6 / 4 + 3 / 6 / 4,
    "a c": 2 / 6 * 3 / 4,
    "a a": 3 / 6 / 4,
    "a b c": 3 / 6 / 4,
    "a a c": 3 / 6 / 4,
    "b b": 1 / 6,
}


def _ids(grammar, text, width=6):
    ids = [BOS, *map(grammar.words.index, text.split()), EOS]
    return ids + [PAD] * (width - len(ids))


@pytest.mark.parametrize("grammar", [compile_grammar(TINY), film_grammar()])
def test_rows_are_distributions_and_impossible_steps_lead_nowhere(grammar):
    np.testing.assert_allclose(grammar.probs.sum(1), 1, rtol=1e-12)
    np.testing.assert_array_equal(grammar.next_state >= 0, grammar.probs > 0)
    assert grammar.probs[START, BOS] == grammar.probs[FINISHED, PAD] == 1


def test_texts_have_the_probabilities_worked_out_by_hand():
    grammar = compile_grammar(TINY)
    tokens = np.array([_ids(grammar, text) for text in TINY_TEXTS])
    np.testing.assert_allclose(np.exp(log_prob(grammar, tokens)), list(TINY_TEXTS.values()))


def test_every_other_text_is_impossible():
    grammar = compile_grammar(TINY)
    texts = [" ".join(t) for n in (1, 2, 3) for t in itertools.product("abc", repeat=n)]
    possible = np.isfinite(log_prob(grammar, np.array([_ids(grammar, t) for t in texts])))
    assert {t for t, p in zip(texts, possible, strict=True) if p} == set(TINY_TEXTS)


def test_entropy_and_lengths_equal_enumeration():
    grammar = compile_grammar(TINY)
    probs = np.array(list(TINY_TEXTS.values()))
    words = np.array([len(t.split()) for t in TINY_TEXTS])
    np.testing.assert_allclose(entropy_per_text(grammar), -(probs * np.log(probs)).sum())
    np.testing.assert_allclose(expected_length(grammar), (probs * (words + 1)).sum())
    assert length_range(grammar) == (2, 3)
    # A derivation tree says more than the text: its entropy would count "a b" twice.
    split = -np.array([2 / 24, 3 / 24]) @ np.log([2 / 24, 3 / 24])
    assert entropy_per_text(grammar) < split - (probs[1:] * np.log(probs[1:])).sum()


def test_cycles_give_the_geometric_law():
    grammar = compile_grammar("A = a | 3 a A")  # stops after each word with probability 1/4
    np.testing.assert_allclose(expected_length(grammar), 5)
    stop = np.array([0.25, 0.75])
    np.testing.assert_allclose(entropy_per_text(grammar), -4 * stop @ np.log(stop))
    with pytest.raises(GrammarError, match="any length"):
        length_range(grammar)


@pytest.mark.parametrize(
    "rules, message",
    [
        ("A = a B", "not defined: B"),
        ("A = a\nA = b", "A is defined twice"),
        ("A = 0 a | b", "A: weight 0.0"),
        ("a = b", "expected `NAME"),
        ("", "there are none"),
        ("A = A a | b", "A can call itself"),
        ("A = a A b | c", "only recursion on the right"),
    ],
)
def test_bad_rules_are_named(rules, message):
    with pytest.raises(GrammarError, match=message):
        compile_grammar(rules)


def test_comments_and_continued_lines():
    assert parse_rules("A = a # b\n  | 3 c\n\n") == {"A": [(0.25, ("a",)), (0.75, ("c",))]}


def test_sampled_frequencies_match_the_exact_probabilities():
    grammar = compile_grammar(TINY)
    count = 40_000
    drawn = draw_texts(grammar, count, 6, np.random.default_rng(0))
    for text, p in TINY_TEXTS.items():
        share = (drawn == _ids(grammar, text)).all(1).mean()
        assert abs(share - p) < 4 * np.sqrt(p * (1 - p) / count), text


def test_film_entropy_and_length_match_samples():
    grammar = film_grammar()
    drawn = draw_texts(grammar, 4000, 40, np.random.default_rng(1))
    surprise = -log_prob(grammar, drawn)
    assert np.isfinite(surprise).all()
    assert abs(surprise.mean() - entropy_per_text(grammar)) < 4 * surprise.std() / 4000**0.5
    lengths = (drawn != PAD).sum(1) - 1
    assert abs(lengths.mean() - expected_length(grammar)) < 4 * lengths.std() / 4000**0.5


def test_films_fit_the_model_and_the_sampler():
    grammar = film_grammar()
    shortest, longest = length_range(grammar)
    assert longest + 2 <= 40 and shortest > 6
    assert 14 <= expected_length(grammar) - 1 <= 18
    drawn = draw_texts(grammar, 4000, 40, np.random.default_rng(2))
    assert ((drawn != PAD).sum(1) - 3 <= 24).mean() > 0.99  # what follows BOS and two words


def test_openings_are_possible_and_their_lengths_uniform():
    grammar = film_grammar()
    openings = draw_openings(grammar, 3000, (2, 6), np.random.default_rng(3))
    assert openings.shape == (3000, 7) and openings.dtype == np.int32
    assert np.isfinite(log_prob(grammar, openings)).all()
    counts = np.bincount((openings != PAD).sum(1) - 1, minlength=7)[2:]
    assert counts.sum() == 3000 and np.abs(counts - 600).max() < 4 * np.sqrt(600)
    assert not (openings == EOS).any()


def test_padding_on_either_side_changes_nothing():
    grammar = film_grammar()
    openings = draw_openings(grammar, 50, (2, 6), np.random.default_rng(4))
    moved = np.asarray(pad_rows([row[row != PAD] for row in openings], 7, left=True).tokens)
    np.testing.assert_array_equal(log_prob(grammar, openings), log_prob(grammar, moved))
    ends = run_states(grammar, openings)[:, -1]
    np.testing.assert_array_equal(ends, run_states(grammar, moved)[:, -1])


def test_append_cuts_what_does_not_fit():
    joined = append_texts(np.array([[1, 5, 6]]), np.array([[7, 8, 2]]))
    np.testing.assert_array_equal(joined, [[1, 5, 6]])
