"""Where the score lands, what padding does, and that GAE carries it back to every real token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops.advantages import gae
from rlhf_jax.ops.shaping import (
    PLACEMENTS,
    completion_discounts,
    token_rewards,
    valued_slots,
)

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
    found = token_rewards(SCORES, KL, MASK, kl_coef=2.0, placement="after_eos")
    assert found.tolist() == [[-1, -2, 10, 0], [-2, -2, -2, -12], [-4, 1, 0, 0]]


def test_valued_slots_by_hand():
    assert valued_slots(MASK, "last_token") is MASK
    assert np.all(valued_slots(MASK, "last_slot"))
    found = valued_slots(MASK, "after_eos").astype(int).tolist()
    assert found == [[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]]
    assert valued_slots(jnp.ones((1, 1), bool), "after_eos").tolist() == [[True]]


@pytest.mark.parametrize("placement", PLACEMENTS)
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


@pytest.mark.parametrize("placement", ["last_token", "after_eos"])
def test_a_row_without_tokens_earns_nothing(placement):
    none = jnp.zeros_like(MASK)
    assert np.all(token_rewards(SCORES, KL, none, kl_coef=2.0, placement=placement) == 0)
    assert not np.any(valued_slots(none, placement))
    assert np.all(completion_discounts(none, 0.9, placement) == 0)


def test_discounts_by_hand():
    found = completion_discounts(MASK, 0.5)
    assert found.tolist() == [[0.5, 0, 0, 0], [0.5, 0.5, 0.5, 0], [0, 0, 0, 0]]
    found = completion_discounts(MASK, 0.5, "last_slot")
    assert found.tolist() == [[0.5, 1, 1, 0], [0.5, 0.5, 0.5, 0], [1, 1, 1, 0]]
    found = completion_discounts(MASK, 0.5, "after_eos")
    assert found.tolist() == [[0.5, 0.5, 0, 0], [0.5, 0.5, 0.5, 0], [0.5, 0, 0, 0]]


def advantages(placement, gamma, gae_lambda, values, mask=MASK, kl=KL):
    rewards = token_rewards(SCORES, kl, mask, kl_coef=0.1, placement=placement)
    discounts = completion_discounts(mask, gamma, placement)
    one = functools.partial(gae, gae_lambda=gae_lambda)
    return jax.vmap(one)(rewards, discounts, values)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
def test_placements_give_real_tokens_the_same_return(gamma):
    found = {
        placement: returns(
            token_rewards(SCORES, KL, MASK, kl_coef=0.1, placement=placement),
            completion_discounts(MASK, gamma, placement),
        )
        for placement in PLACEMENTS
    }
    mask = np.asarray(MASK)
    np.testing.assert_allclose(found["last_token"][mask], found["last_slot"][mask], rtol=1e-5)
    # Worked by hand for the first row: 10 - 0.1 at the EOS, discounted once before it.
    np.testing.assert_allclose(found["last_slot"][0, :2], [gamma * 9.9 - 0.05, 9.9], rtol=1e-6)
    # A step later under "after_eos", except in the full row.
    late = found["after_eos"]
    np.testing.assert_allclose(late[0, :2], [gamma * late[0, 1] - 0.05, 10 * gamma - 0.1])
    np.testing.assert_allclose(late[1], found["last_token"][1], rtol=1e-6)
    assert (gamma == 1) == np.allclose(late[mask], found["last_token"][mask])


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


def test_after_eos_the_score_comes_through_the_value_of_the_next_slot():
    """By hand for the first row at lambda 0.5: EOS on slot 1, value 4 on slot 2, score 10 there."""
    values = jnp.array([[1.0, 2.0, 4.0, 99.0, 99.0]] * 3)
    found = advantages("after_eos", 0.9, 0.5, values)
    after = 10.0 - 4.0
    last = (-0.1 + 0.9 * 4.0 - 2.0) + 0.9 * 0.5 * after
    first = (-0.05 + 0.9 * 2.0 - 1.0) + 0.9 * 0.5 * last
    np.testing.assert_allclose(found[0, :3], [first, last, after], rtol=1e-6)


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 1.0])
def test_after_eos_is_constant_gamma_over_zeroed_values(gae_lambda):
    """The textbook form: gamma everywhere, and values of 0 where none is trained."""
    rng = np.random.default_rng(2)
    valued = valued_slots(MASK, "after_eos")
    values = jnp.where(valued, jnp.array(rng.normal(size=(3, 4)), jnp.float32), 0)
    values = jnp.pad(values, ((0, 0), (0, 1)))
    rewards = token_rewards(SCORES, KL, MASK, kl_coef=0.1, placement="after_eos")
    plain = jax.vmap(functools.partial(gae, gae_lambda=gae_lambda))
    expected = plain(rewards, jnp.full((3, 4), 0.9), values)
    found = advantages("after_eos", 0.9, gae_lambda, values)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert np.all(found[~valued] == 0)


# Under "last_slot" and a smaller lambda the score is further away, by design. A full row gets a
# slot after its EOS only from the padding, so "after_eos" is compared on the others.
@pytest.mark.parametrize(
    "placement, gae_lambda",
    [("last_token", 0.5), ("last_token", 1.0), ("last_slot", 1.0), ("after_eos", 0.5)],
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
    same = MASK & ~(MASK[:, -1:] & (placement == "after_eos"))
    np.testing.assert_allclose(long[:, :4][same], short[same], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_traced_hyperparameters_in_both_precisions(placement, float64):
    def shaped(kl_coef, gamma, dtype):
        scores, kl = SCORES.astype(dtype), KL.astype(dtype)
        rewards = token_rewards(scores, kl, MASK, kl_coef=kl_coef, placement=placement)
        return rewards, completion_discounts(MASK, gamma, placement)

    for dtype in (jnp.float32, jnp.float64):
        lanes = jnp.array([0.0, 0.5], dtype)
        one = functools.partial(shaped, dtype=dtype)
        rewards, discounts = jax.jit(jax.vmap(one))(lanes, lanes)
        assert rewards.dtype == discounts.dtype == dtype
        plain = shaped(0.5, 0.5, dtype)
        np.testing.assert_allclose(rewards[1], plain[0], rtol=1e-6)
        np.testing.assert_allclose(discounts[1], plain[1], rtol=1e-6)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"placement='eos'.*last_token, last_slot, after_eos"):
        token_rewards(SCORES, KL, MASK, kl_coef=0.1, placement="eos")
    with pytest.raises(ValueError, match="placement='eos'"):
        completion_discounts(MASK, 1.0, "eos")
    with pytest.raises(ValueError, match="placement='eos'"):
        valued_slots(MASK, "eos")
    with pytest.raises(AssertionError):
        token_rewards(SCORES[:2], KL, MASK, kl_coef=0.1)
    with pytest.raises(AssertionError):
        valued_slots(KL, "after_eos")
