import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.tasks.reviews import lexicon
from rlhf_jax.tasks.reviews.exact import expected_to_go
from rlhf_jax.tasks.reviews.films import film_grammar
from rlhf_jax.tasks.reviews.gold import describe, describe_tokens, film_machines, make_gold
from rlhf_jax.tasks.reviews.optimum import joint_states, product, tilt
from rlhf_jax.tasks.reviews.sampler import draw_openings, draw_texts
from rlhf_jax.tasks.reviews.vocabulary import make_codec
from rlhf_jax.tasks.tokens import BOS, EOS, PAD

GOLD = jax.jit(make_gold(film_machines()))
CODEC = make_codec(film_grammar().words)


def _score(tokens, mask=None):
    tokens = jnp.asarray(np.atleast_2d(tokens), jnp.int32)
    return np.asarray(GOLD(tokens, tokens != PAD if mask is None else jnp.asarray(mask)))


def _texts(count, seed=0):
    return draw_texts(film_grammar(), count, 31, np.random.default_rng(seed))


def test_the_lexicon_speaks_about_words_of_the_grammar():
    known = set(film_grammar().words)
    words = (*lexicon.VALENCE, *lexicon.STRONG, *lexicon.WEAK, *lexicon.NEGATION)
    assert known.issuperset((*words, *lexicon.BOUNDARY))


# Valences: fine .5, good 1, gripping 1.7, dull -1.3, recommend 1.5, disappoint -1.2, liked 1.
@pytest.mark.parametrize(
    "text, right, bug, wrong",
    [
        ("the plot was good .", 1.0, "nothing counted", 0.0),
        ("the plot was very good .", 1.6, "degree ignored", 1.0),
        ("the plot was slightly dull .", -1.3 * 0.6, "degree ignored", -1.3),
        ("the plot was not good .", -0.6, "negation ignored", 1.0),
        ("the plot was not very good .", -0.4, "negation drops the degree", -0.6),
        ("the plot did not disappoint .", 1.2 * 0.6, "full flip", 1.2),
        ("i would not recommend it .", -1.5 * 0.6, "negation stops at the next word", 1.5),
        ("it was not dull but it was fine .", 1.3 * 0.6 + 0.5, "negation past but", 0.78 - 0.3),
        ("it was not fine . the plot was good .", -0.3 + 1.0, "negation past the stop", -0.9),
    ],
)
def test_worked_sentiment(text, right, bug, wrong):
    sentiment = sum(part.sentiment for part in describe(text))
    assert sentiment == pytest.approx(right, abs=1e-6)
    assert abs(sentiment - wrong) > 0.05, bug


def test_praise_fades_and_then_pays_nothing():
    words = ["good", "great", "wonderful", "brilliant", "superb", "moving", "charming"]
    gains = [p.sentiment for p in describe(" ".join(words)) if p.word in lexicon.VALENCE]
    fade = [*lexicon.FADE, lexicon.FADE[-1]]
    expected = [lexicon.VALENCE[w] * f for w, f in zip(words, fade, strict=True)]
    np.testing.assert_allclose(gains, expected, atol=1e-6)
    assert gains[-1] == 0 and gains[0] == 1


def test_praise_does_not_fade_blame():
    gains = [p.sentiment for p in describe("good great wonderful bad") if p.sentiment]
    assert gains[-1] == -1.0


def test_repetition_costs_also_across_sentences():
    score = {
        w: sum(p.repetition for p in describe(f"the plot was good . the music was {w} ."))
        for w in ("good", "great")
    }
    assert score == {"good": lexicon.REPETITION, "great": 0.0}
    assert sum(p.repetition for p in describe("it was very very good .")) == lexicon.REPETITION


def test_one_slip_of_grammar_costs_once_and_reading_goes_on():
    slips = {
        text: sum(p.grammar < 0 for p in describe(text))
        for text in (
            "the plot was good . it was a joy .",
            "the plot good . it was a joy .",  # a word left out
            "the the plot was good . it was a joy .",
            "the plot was gripping . i liked",  # ends in the middle
            "it was a . it was a joy .",
        )
    }
    assert list(slips.values()) == [0, 1, 1, 1, 1]


def test_special_tokens_inside_a_text_cost():
    ids = CODEC.encode("it was a joy . it was fine .")
    clean = _score([BOS, *ids, EOS])
    for special in (PAD, BOS):
        broken = [BOS, *ids[:3], special, *ids[3:], EOS]
        cost = _score(broken, np.ones((1, len(broken)), bool)) - clean
        np.testing.assert_allclose(cost, lexicon.UNGRAMMATICAL, atol=1e-6)


def test_scan_equals_the_python_loop_on_any_tokens():
    rng = np.random.default_rng(5)
    tokens = np.concatenate([_texts(30), rng.integers(3, CODEC.vocab_size, (30, 31))])
    tokens[30:, 0] = BOS
    loop = [sum(sum(part[1:]) for part in describe_tokens(row)) for row in tokens]
    np.testing.assert_allclose(_score(tokens), loop, atol=1e-4)


def test_padding_changes_nothing():
    tokens = _texts(64)
    right = np.pad(tokens, ((0, 0), (0, 9)))
    left = np.stack([np.roll(row, (row == PAD).sum()) for row in tokens])
    split = np.concatenate([tokens[:, :4], np.zeros((64, 5), np.int32), tokens[:, 4:]], axis=1)
    for padded in (right, left, split):
        np.testing.assert_array_equal(_score(padded), _score(tokens))
    # What stands under the mask is not read.
    noise = np.where(right == PAD, 7, right)
    np.testing.assert_array_equal(_score(noise, right != PAD), _score(tokens))


def test_vmap_agrees_and_the_result_is_float32():
    tokens = jnp.asarray(_texts(12))
    lanes = jax.vmap(GOLD)(tokens.reshape(3, 4, 31), tokens.reshape(3, 4, 31) != PAD)
    assert lanes.dtype == jnp.float32
    np.testing.assert_allclose(lanes.reshape(-1), GOLD(tokens, tokens != PAD), atol=1e-6)


def test_grammar_samples_are_never_ungrammatical_and_balanced():
    tokens = _texts(4000)
    scores = _score(tokens)
    assert abs(scores.mean()) < 0.3 and 1.5 < scores.std() < 2.7
    assert all(p.grammar == 0 for row in tokens[:100] for p in describe_tokens(row))
    repeats = [any(p.repetition for p in describe_tokens(row)) for row in tokens[:1000]]
    assert 0.01 < np.mean(repeats) < 0.08


def test_exact_mean_and_optimum_match_reweighted_samples():
    grammar, machines = film_grammar(), film_machines()
    joint = product(grammar, machines)
    scores = _score(_texts(20_000)).astype(float)
    mean = expected_to_go(joint.edges, joint.reward)[0]
    assert abs(scores.mean() - mean) < 4 * scores.std() / 20_000**0.5
    found, weight = tilt(joint, 0.5), np.exp(0.5 * scores)
    assert found.log_z[0] == pytest.approx(np.log(weight.mean()), abs=0.05)
    assert found.reward[0] == pytest.approx((weight * scores).sum() / weight.sum(), abs=0.15)
    np.testing.assert_allclose(found.kl, 0.5 * found.reward - found.log_z, atol=1e-9)


def test_six_nats_are_worth_more_than_two_deviations_after_every_kind_of_opening():
    grammar, machines = film_grammar(), film_machines()
    joint = product(grammar, machines)
    openings = draw_openings(grammar, 256, (2, 6), np.random.default_rng(6))
    at = joint_states(joint, grammar, machines, openings)
    mean = expected_to_go(joint.edges, joint.reward)
    square = joint.reward**2 + 2 * joint.reward * mean[joint.edges.target]
    deviation = np.sqrt(expected_to_go(joint.edges, square) - mean**2)[at]
    assert deviation.min() > 0.9  # no opening settles the verdict
    best = tilt(joint, 2.1)
    assert best.kl[at].mean() < 6.1
    assert (best.reward - mean)[at].mean() > 2.2 * _score(_texts(2000)).std()
