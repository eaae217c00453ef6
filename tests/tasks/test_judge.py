"""The judge on a small language whose answer is known."""

import numpy as np
import pytest

from rlhf_jax.tasks import judge as judging
from rlhf_jax.tasks.judge import accuracy, cached_judge, fit_judge


def reviews(n, seed):
    """Texts of filler with a few telling words; one word turns sides after 'not'."""
    rng = np.random.default_rng(seed)
    filler = [f"word{i}" for i in range(50)]
    texts, labels = [], []
    for i in range(n):
        words = list(rng.choice(filler, 60))
        for at in range(0, 60, 6):
            words[at] = ["not nice", "nice film"][i % 2]
        texts.append(" ".join(words))
        labels.append(i % 2)
    return texts, labels


TRAIN, TRAIN_LABELS = reviews(200, 0)
TEST, TEST_LABELS = reviews(100, 1)


def test_whole_texts_and_short_windows():
    judge = fit_judge(TRAIN, TRAIN_LABELS)
    assert accuracy(judge, TEST, TEST_LABELS) == 1.0
    short = [" ".join(t.split()[10:34]) for t in TEST]
    assert accuracy(judge, short, TEST_LABELS) > 0.95
    assert 0.4 < np.mean(np.array(judge(short)) > 0.5) < 0.6


def test_word_order_counts():
    judge = fit_judge(TRAIN, TRAIN_LABELS)
    not_nice, nice_film = judge(["not nice", "nice film"])
    assert not_nice < 0.5 < nice_film


def test_probabilities_of_any_text():
    judge = fit_judge(TRAIN, TRAIN_LABELS)
    assert judge([]) == []
    scores = judge(["", "\U0001f600", "nice", "nice film " * 500])
    assert all(isinstance(s, float) and 0.0 <= s <= 1.0 for s in scores)


def test_same_data_same_judge_and_cache(tmp_path, monkeypatch):
    one = cached_judge(TRAIN, TRAIN_LABELS, seed=3, cache_dir=str(tmp_path))
    np.testing.assert_array_equal(fit_judge(TRAIN, TRAIN_LABELS, seed=3).weights, one.weights)
    monkeypatch.setattr(judging, "fit_judge", None)  # a second fit would fail
    two = cached_judge(TRAIN, TRAIN_LABELS, seed=3, cache_dir=str(tmp_path))
    assert two(TEST) == one(TEST)
    with pytest.raises(TypeError):
        cached_judge(TRAIN, TRAIN_LABELS[::-1], seed=3, cache_dir=str(tmp_path))
