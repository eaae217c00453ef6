"""Where the score lands, what padding does, and that GAE carries it back to every real token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops.advantages import gae
from rlhf_jax.ops.shaping import completion_discounts, missing_eos_penalty, token_rewards

SCORES = jnp.array([10.0, -10.0, 1.0])
KL = jnp.array([[0.5, 1.0, 7.0, 7.0], [1.0, 1.0, 1.0, 1.0], [2.0, 7.0, 7.0, 7.0]])
LENGTHS = jnp.array([2, 4, 1])
MASK = jnp.arange(4)[None, :] < LENGTHS[:, None]


def returns(rewards, discounts):
    """Discounted sums by plain recursion, row by row."""
    rewards, discounts = np.asarray(rewards), np.asarray(discounts)
    out, following = np.zeros_like(rewards), np.zeros(len(rewards), rewards.dtype)
    for t in reversed(range(rewards.shape[1])):
        following = rewards[:, t] + discounts[:, t] * following
        out[:, t] = following
    return out


def test_token_rewards_by_hand():
    found = token_rewards(SCORES, KL, MASK, kl_coef=2.0)
    assert found.tolist() == [[-1, 8, 0, 0], [-2, -2, -2, -12], [-3, 0, 0, 0]]
    assert found[0].tolist() != [-1, -2, 10, 0]  # on the first pad: one past the EOS
    assert found[0].tolist() != [-1, 8, -14, -14]  # the KL of padding counted
    found = token_rewards(SCORES, KL, MASK, kl_coef=2.0, placement="last_slot")
    assert found.tolist() == [[-1, -2, 0, 10], [-2, -2, -2, -12], [-4, 0, 0, 1]]


@pytest.mark.parametrize("placement", ["last_token", "last_slot"])
def test_rewards_sum_to_score_less_penalty(placement):
    found = token_rewards(SCORES, KL, MASK, kl_coef=0.5, placement=placement)
    expected = SCORES - 0.5 * jnp.array([1.5, 4.0, 2.0])
    np.testing.assert_allclose(jnp.sum(found, axis=1), expected, rtol=1e-6)


@pytest.mark.parametrize("junk", [jnp.nan, jnp.inf])
def test_padding_reaches_neither_rewards_nor_gradient(junk):
    dirty = jnp.where(MASK, KL, junk)

    def total(kl):
        return jnp.sum(jnp.sin(token_rewards(SCORES, kl, MASK, kl_coef=2.0)))

    np.testing.assert_array_equal(
        token_rewards(SCORES, dirty, MASK, kl_coef=2.0),
        token_rewards(SCORES, KL, MASK, kl_coef=2.0),
    )
    assert np.all(np.isfinite(jax.grad(total)(dirty)))
    assert np.isnan(token_rewards(SCORES, KL.at[0, 1].set(jnp.nan), MASK, kl_coef=2.0)[0, 1])


def test_a_row_without_tokens_earns_nothing():
    none = jnp.zeros_like(MASK)
    assert np.all(token_rewards(SCORES, KL, none, kl_coef=2.0) == 0)


def test_discounts_by_hand():
    found = completion_discounts(MASK, 0.5)
    assert found.tolist() == [[0.5, 0, 0, 0], [0.5, 0.5, 0.5, 0], [0, 0, 0, 0]]
    found = completion_discounts(MASK, 0.5, "last_slot")
    assert found.tolist() == [[0.5, 1, 1, 0], [0.5, 0.5, 0.5, 0], [1, 1, 1, 0]]


def advantages(placement, gamma, gae_lambda, values, mask=MASK, kl=KL):
    rewards = token_rewards(SCORES, kl, mask, kl_coef=0.1, placement=placement)
    discounts = completion_discounts(mask, gamma, placement)
    one = functools.partial(gae, gae_lambda=gae_lambda)
    return jax.vmap(one)(rewards, discounts, values)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_both_placements_give_real_tokens_the_same_return(gamma):
    found = {
        placement: returns(
            token_rewards(SCORES, KL, MASK, kl_coef=0.1, placement=placement),
            completion_discounts(MASK, gamma, placement),
        )
        for placement in ("last_token", "last_slot")
    }
    mask = np.asarray(MASK)
    np.testing.assert_allclose(found["last_token"][mask], found["last_slot"][mask], rtol=1e-5)
    # Worked by hand for the first row: 10 - 0.1 at the EOS, discounted once before it.
    np.testing.assert_allclose(found["last_slot"][0, :2], [gamma * 9.9 - 0.05, 9.9], rtol=1e-6)


def test_placements_agree_at_lambda_one_whatever_the_values_on_padding():
    values = jnp.array(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
    token, slot = (advantages(p, 0.9, 1.0, values) for p in ("last_token", "last_slot"))
    np.testing.assert_allclose(token[MASK], slot[MASK], rtol=1e-4, atol=1e-5)


def test_last_slot_below_lambda_one_leans_on_the_values_on_padding():
    values = jnp.zeros((3, 5))
    token, slot = (advantages(p, 1.0, 0.5, values) for p in ("last_token", "last_slot"))
    np.testing.assert_allclose(token[0, 1], 9.9, rtol=1e-6)
    np.testing.assert_allclose(slot[0, 1], 0.5**2 * 10 - 0.1, rtol=1e-6)  # two pads away
    trained = jnp.where(jnp.pad(MASK, ((0, 0), (0, 1))), 0.0, SCORES[:, None])
    slot = advantages("last_slot", 1.0, 0.5, trained)
    np.testing.assert_allclose(slot[MASK], token[MASK], rtol=1e-5)


# Under "last_slot" and a smaller lambda the score is further away, by design.
@pytest.mark.parametrize(
    "placement, gae_lambda", [("last_token", 0.5), ("last_token", 1.0), ("last_slot", 1.0)]
)
def test_more_padding_changes_no_real_token(placement, gae_lambda):
    values = jnp.array(np.random.default_rng(1).normal(size=(3, 5)), jnp.float32)
    wider = ((0, 0), (0, 3))
    short = advantages(placement, 0.9, gae_lambda, values)
    long = advantages(
        placement,
        0.9,
        gae_lambda,
        jnp.pad(values, wider, constant_values=5.0),
        jnp.pad(MASK, wider),
        jnp.pad(KL, wider, constant_values=jnp.nan),
    )
    np.testing.assert_allclose(long[:, :4][MASK], short[MASK], rtol=1e-4, atol=1e-5)


def test_missing_eos_by_hand():
    tokens = jnp.array([[4, 2, 0, 0], [4, 5, 4, 5], [2, 2, 2, 2]])
    args = dict(eos_id=2, penalty=1.5)
    assert missing_eos_penalty(SCORES, tokens, MASK, **args).tolist() == [10.0, -11.5, 1.0]
    assert missing_eos_penalty(SCORES, tokens, MASK, **args).tolist()[1] != -1.5  # replaced
    padded_with_eos = jnp.array([[4, 5, 2, 2], [4, 5, 4, 5], [2, 2, 2, 2]])
    found = missing_eos_penalty(SCORES, padded_with_eos, MASK, **args)
    assert found.tolist() == [8.5, -11.5, 1.0]  # an EOS id on padding is no EOS


@pytest.mark.parametrize("placement", ["last_token", "last_slot"])
def test_traced_hyperparameters_in_both_precisions(placement, float64):
    def shaped(kl_coef, gamma, penalty, dtype):
        tokens = jnp.full(MASK.shape, 4)
        scores = missing_eos_penalty(SCORES.astype(dtype), tokens, MASK, eos_id=2, penalty=penalty)
        kl = KL.astype(dtype)
        rewards = token_rewards(scores, kl, MASK, kl_coef=kl_coef, placement=placement)
        return rewards, completion_discounts(MASK, gamma, placement)

    for dtype in (jnp.float32, jnp.float64):
        lanes = jnp.array([0.0, 0.5], dtype)
        one = functools.partial(shaped, dtype=dtype)
        rewards, discounts = jax.jit(jax.vmap(one))(lanes, lanes, lanes)
        assert rewards.dtype == discounts.dtype == dtype
        plain = shaped(0.5, 0.5, 0.5, dtype)
        np.testing.assert_allclose(rewards[1], plain[0], rtol=1e-6)
        np.testing.assert_allclose(discounts[1], plain[1], rtol=1e-6)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"placement='eos'.*last_token, last_slot"):
        token_rewards(SCORES, KL, MASK, kl_coef=0.1, placement="eos")
    with pytest.raises(ValueError, match="placement='eos'"):
        completion_discounts(MASK, 1.0, "eos")
    with pytest.raises(AssertionError):
        token_rewards(SCORES[:2], KL, MASK, kl_coef=0.1)
    with pytest.raises(AssertionError):
        missing_eos_penalty(SCORES, KL, MASK, eos_id=2, penalty=1.0)
