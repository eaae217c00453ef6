"""Which tokens may be drawn, worked by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.sampling.filters import FORBIDDEN, forbid, top_k, top_p

LOGITS = jnp.log(jnp.array([[0.4, 0.3, 0.2, 0.1]]))


def kept(logits):
    return (np.asarray(logits) > FORBIDDEN / 2).tolist()


@pytest.mark.parametrize(
    "k, expected",
    [(0, [1, 1, 1, 1]), (1, [1, 0, 0, 0]), (3, [1, 1, 1, 0]), (4, [1] * 4), (9, [1] * 4)],
)
def test_top_k(k, expected):
    assert kept(top_k(LOGITS, k)) == [list(map(bool, expected))]


def test_top_k_keeps_all_that_tie_with_the_last():
    tied = jnp.array([[1.0, 3.0, 1.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    assert kept(top_k(tied, 2)) == [[True, True, True, False], [True] * 4]


@pytest.mark.parametrize(
    "p, expected",
    [
        (1.0, [1, 1, 1, 1]),
        (0.95, [1, 1, 1, 1]),
        (0.85, [1, 1, 1, 0]),
        (0.65, [1, 1, 0, 0]),
        (0.35, [1, 0, 0, 0]),
        (1e-6, [1, 0, 0, 0]),  # the likeliest token stays however small p is
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, expected):
    assert kept(top_p(LOGITS, p)) == [list(map(bool, expected))]
    shuffled = top_p(LOGITS[:, ::-1], p)
    assert kept(shuffled) == [list(map(bool, expected[::-1]))]


def test_kept_logits_are_unchanged():
    for filtered in (top_k(LOGITS, 2), top_p(LOGITS, 0.65)):
        np.testing.assert_array_equal(filtered[:, :2], LOGITS[:, :2])


def test_top_p_counts_what_top_k_left():
    # Of 0.4 and 0.3 alone the first holds 4/7, so p = 0.5 needs one token, not two.
    assert kept(top_p(top_k(LOGITS, 2), 0.5)) == [[True, False, False, False]]


def test_forbid_acts_in_the_rows_it_is_told():
    logits = jnp.zeros((2, 3))
    assert kept(forbid(logits, 1, jnp.array([True, False]))) == [[True, False, True], [True] * 3]
    assert kept(forbid(logits, 1, jnp.array(True))) == [[True, False, True]] * 2
    assert kept(forbid(logits, 1, jnp.array(False))) == [[True] * 3] * 2
