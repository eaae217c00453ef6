"""Shaping of whole scores: unfinished texts, long texts, groups with nothing to compare."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops.advantages import grpo_advantages
from rlhf_jax.ops.scores import (
    informative_groups,
    missing_eos_penalty,
    missing_eos_replacement,
    overlong_penalty,
)

SCORES = jnp.array([10.0, -10.0, 1.0])
MASK = jnp.arange(4)[None, :] < jnp.array([2, 4, 1])[:, None]
TOKENS = jnp.array([[4, 2, 0, 0], [4, 5, 4, 5], [2, 2, 2, 2]])
PADDED_WITH_EOS = jnp.array([[4, 5, 2, 2], [4, 5, 4, 5], [2, 2, 2, 2]])


def test_missing_eos_by_hand():
    args = dict(eos_id=2, penalty=1.5)
    assert missing_eos_penalty(SCORES, TOKENS, MASK, **args).tolist() == [10.0, -11.5, 1.0]
    found = missing_eos_penalty(SCORES, PADDED_WITH_EOS, MASK, **args)
    assert found.tolist() == [8.5, -11.5, 1.0]  # an EOS id on padding is no EOS
    args = dict(eos_id=2, value=-1.0)
    assert missing_eos_replacement(SCORES, TOKENS, MASK, **args).tolist() == [10.0, -1.0, 1.0]
    found = missing_eos_replacement(SCORES, PADDED_WITH_EOS, MASK, **args)
    assert found.tolist() == [-1.0, -1.0, 1.0]


def test_a_replaced_score_is_forgotten():
    """A bad unfinished text gains by it, which a penalty never allows."""
    found = missing_eos_replacement(SCORES, TOKENS, MASK, eos_id=2, value=-1.0)
    lowered = missing_eos_penalty(SCORES, TOKENS, MASK, eos_id=2, penalty=1.0)
    assert found[1] > SCORES[1] > lowered[1]
    gradient = jax.grad(
        lambda x: jnp.sum(missing_eos_replacement(x, TOKENS, MASK, eos_id=2, value=-1.0))
    )
    assert gradient(SCORES).tolist() == [1.0, 0.0, 1.0]
    broken = SCORES.at[:2].set(jnp.nan)
    found = missing_eos_replacement(broken, TOKENS, MASK, eos_id=2, value=-1.0)
    assert np.isnan(found).tolist() == [True, False, False]


def test_more_padding_changes_no_score():
    wide = jnp.pad(TOKENS, ((0, 0), (0, 3)), constant_values=2), jnp.pad(MASK, ((0, 0), (0, 3)))
    for shape, amount in ((missing_eos_penalty, "penalty"), (missing_eos_replacement, "value")):
        kwargs = {"eos_id": 2, amount: 0.5}
        found, expected = shape(SCORES, *wide, **kwargs), shape(SCORES, TOKENS, MASK, **kwargs)
        np.testing.assert_array_equal(found, expected)


def test_overlong_by_hand():
    """DAPO's own numbers: 16384 tokens are free, 20480 the limit."""
    lengths = jnp.array([0, 16384, 17408, 18432, 20479, 20480, 20481, 99999], jnp.float32)
    found = overlong_penalty(lengths, max_length=20480, buffer=4096)
    expected = [0, 0, -0.25, -0.5, -4095 / 4096, -1, -1, -1]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.dtype == jnp.float32
    # A limit counted from the end of the buffer would let 20480 tokens go free.
    assert overlong_penalty(lengths, max_length=20480 + 4096, buffer=4096)[5] == 0


def test_overlong_falls_by_one_over_the_buffer_a_token(float64):
    found = overlong_penalty(jnp.arange(40.0), max_length=30, buffer=8)
    falling = (np.arange(39) >= 22) & (np.arange(39) < 30)
    np.testing.assert_allclose(np.diff(found), np.where(falling, -1 / 8, 0))


def test_informative_groups_are_those_with_an_advantage():
    scores = jnp.array([[0.1, 0.1, 0.1], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [-3.0, -3.0, -3.0]])
    assert informative_groups(scores).tolist() == [False, True, True, False]
    moved = jnp.any(grpo_advantages(scores) != 0, axis=1)
    np.testing.assert_array_equal(informative_groups(scores), moved)
    assert informative_groups(jnp.ones((2, 1))).tolist() == [False, False]
    assert informative_groups(jnp.array([[1.0, jnp.nan], [jnp.nan] * 2])).tolist() == [True, True]


def test_traced_hyperparameters_under_jit_and_vmap():
    def all_of_them(x):
        return (
            missing_eos_penalty(SCORES, TOKENS, MASK, eos_id=2, penalty=x),
            missing_eos_replacement(SCORES, TOKENS, MASK, eos_id=2, value=x),
            overlong_penalty(jnp.array([6.0, 9.0]), max_length=10 * x, buffer=4 * x),
        )

    lanes = jax.jit(jax.vmap(all_of_them))(jnp.array([0.5, 1.0]))
    for lane, x in enumerate((0.5, 1.0)):
        for found, expected in zip(lanes, all_of_them(x)):
            np.testing.assert_allclose(found[lane], expected, rtol=1e-6)


def test_mistakes_are_refused():
    for shape, amount in ((missing_eos_penalty, "penalty"), (missing_eos_replacement, "value")):
        for bad in ((SCORES, SCORES, MASK), (SCORES[:2], TOKENS, MASK), (SCORES, TOKENS, TOKENS)):
            with pytest.raises(AssertionError):
                shape(*bad, eos_id=2, **{amount: 1.0})
    with pytest.raises(AssertionError):
        overlong_penalty(jnp.array([1]), max_length=10, buffer=4)
    with pytest.raises(AssertionError):
        informative_groups(SCORES)
    with pytest.raises(AssertionError):
        informative_groups(TOKENS)
