"""Surrogates by hand, against each other on and off policy, and where their gradients go."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.losses.aggregation import aggregate
from rlhf_jax.losses.policy_gradient import (
    cispo_loss,
    gspo_loss,
    kl_penalty_loss,
    log_clip_loss,
    no_clip_loss,
    reinforce_loss,
    sequence_log_ratio,
)
from rlhf_jax.losses.ppo import ppo_clip_loss
from rlhf_jax.ops.kl import kl_full, kl_k3

CLIP = dict(clip_low=0.2, clip_high=0.3)
RATIOS = np.array([1.0, 1.25, 1.5, 0.5, 0.75, 0.85])
LENGTHS = np.array([4, 2, 3])
MASK = jnp.arange(4)[None, :] < jnp.array(LENGTHS)[:, None]


def whole_mask(x):
    return jnp.ones(x.shape, bool)


def penalised(log_probs, behavior, advantages, coef=0.7):
    kl = kl_k3(behavior, log_probs)
    return kl_penalty_loss(log_probs, behavior, advantages, kl, penalty_coef=coef)


# All of them as (log_probs, behavior_log_probs, advantages) -> per token; gspo needs [B, T].
SURROGATES = {
    "no_clip": no_clip_loss,
    "log_clip": functools.partial(log_clip_loss, **CLIP),
    "cispo": functools.partial(cispo_loss, clip_high=0.3),
    "reinforce": lambda log_probs, behavior, advantages: reinforce_loss(log_probs, advantages),
    "kl_penalty": penalised,
    "gspo": lambda *args: gspo_loss(*args, whole_mask(args[0]), **CLIP),
}


def batch(seed=0, shape=(3, 4)):
    rng = np.random.default_rng(seed)
    log_probs = -rng.random(shape) - 0.1
    behavior = log_probs - 0.3 * rng.normal(size=shape)
    return jnp.array(log_probs), jnp.array(behavior), jnp.array(rng.normal(size=shape))


def gradient(loss, log_probs, *args):
    return jax.grad(lambda x: jnp.sum(loss(x, *args)))(log_probs)


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_token_losses_by_hand(advantage):
    d, advantages = jnp.log(jnp.array(RATIOS)), jnp.full(6, advantage)
    behavior = jnp.full(6, -1.0)
    args = d + behavior, behavior, advantages
    np.testing.assert_allclose(no_clip_loss(*args), -advantage * RATIOS, rtol=1e-5)
    np.testing.assert_allclose(reinforce_loss(args[0], advantages), -advantage * args[0])
    # max(-A d, -A clip(d)): only the side on which the token has gone too far is clipped.
    clipped = np.clip(RATIOS, *((0, 1.3) if advantage > 0 else (0.8, 9)))
    expected = -advantage * np.log(clipped)
    np.testing.assert_allclose(log_clip_loss(*args, **CLIP), expected, rtol=1e-5, atol=1e-6)
    weights = np.minimum(RATIOS, 1.3)
    found = cispo_loss(*args, clip_high=0.3)
    np.testing.assert_allclose(found, -weights * advantage * args[0], rtol=1e-5)
    found = kl_penalty_loss(*args, jnp.full(6, 0.25), penalty_coef=2.0)
    np.testing.assert_allclose(found, -advantage * RATIOS + 0.5, rtol=1e-5)


@pytest.mark.parametrize("name", SURROGATES)
def test_on_policy_all_are_the_policy_gradient(name, float64):
    """One advantage a row, as GSPO has it."""
    log_probs, _, advantages = batch()
    rows = jnp.broadcast_to(advantages[:, :1], advantages.shape)
    expected = gradient(no_clip_loss, log_probs, log_probs, rows)
    np.testing.assert_allclose(expected, -rows, rtol=1e-12)
    found = gradient(SURROGATES[name], log_probs, log_probs, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    moved = gradient(SURROGATES[name], log_probs + 0.1, log_probs, rows)  # they part company
    assert name in ("log_clip", "reinforce") or np.max(np.abs(moved - expected)) > 0.01


def expected_gradient(loss, weights_of):
    """Gradient on three arms, averaged exactly over the arms `weights_of(behavior)` draws."""
    logits, behavior = jnp.array([0.4, -0.3, 0.1]), jnp.log(jnp.array([0.1, 0.3, 0.6]))
    rewards = jnp.array([1.0, -2.0, 0.5])

    def total(x):
        return jnp.sum(weights_of(behavior) * loss(jax.nn.log_softmax(x), behavior, rewards))

    truth = jax.grad(lambda x: -jnp.sum(jax.nn.softmax(x) * rewards))(logits)
    return jax.grad(total)(logits), truth


def test_off_policy_the_importance_weight_is_what_makes_it_unbiased(float64):
    behaviors = jnp.exp
    for loss in (no_clip_loss, functools.partial(cispo_loss, clip_high=1e9)):
        np.testing.assert_allclose(*expected_gradient(loss, behaviors), rtol=1e-10)
    for name in ("reinforce", "log_clip", "cispo"):
        found, truth = expected_gradient(SURROGATES[name], behaviors)
        assert np.max(np.abs(found - truth)) > 0.05


@pytest.mark.parametrize("advantage", [2.0, -2.0])
def test_log_clip_drops_the_tokens_ppo_drops(advantage):
    d = jnp.linspace(-1.0, 1.0, 81)
    args = jnp.zeros(81), jnp.full(81, advantage)
    ppo = gradient(functools.partial(ppo_clip_loss, **CLIP), d, *args)
    log = gradient(functools.partial(log_clip_loss, **CLIP), d, *args)
    np.testing.assert_array_equal(log == 0, ppo == 0)
    assert 10 < np.sum(log == 0) < 70
    np.testing.assert_array_equal(log[log != 0], -advantage)  # and not -A r


def test_cispo_never_loses_a_gradient(float64):
    d = jnp.linspace(-3.0, 3.0, 61)
    args = jnp.zeros(61), jnp.full(61, 2.0)
    found = gradient(functools.partial(cispo_loss, clip_high=0.3), d, *args)
    np.testing.assert_allclose(found, -2.0 * np.minimum(np.exp(d), 1.3), rtol=1e-12)
    assert np.all(found < 0)
    assert np.sum(gradient(functools.partial(ppo_clip_loss, **CLIP), d, *args) == 0) > 20


def test_kl_penalty_has_the_fixed_point_of_a_forward_kl(float64):
    """The best policy under `E_behavior[r A] - c KL(behavior || pi)` is `c behavior / (x - A)`."""
    behavior, rewards, coef = np.array([0.1, 0.3, 0.6]), np.array([1.0, -2.0, 0.5]), 0.8
    low, high = 1.0 + 1e-9, 10.0
    for _ in range(200):
        x = (low + high) / 2
        low, high = (x, high) if np.sum(coef * behavior / (x - rewards)) > 1 else (low, x)
    best = jnp.log(jnp.array(coef * behavior / (x - rewards)))
    old, advantages = jnp.log(jnp.array(behavior)), jnp.array(rewards)

    def total(logits, penalty_coef):
        log_probs = jax.nn.log_softmax(logits)
        kl = jnp.broadcast_to(kl_full(old, log_probs), (3,))
        losses = kl_penalty_loss(log_probs, old, advantages, kl, penalty_coef=penalty_coef)
        return jnp.sum(jnp.exp(old) * losses)

    np.testing.assert_allclose(jax.grad(total)(best, coef), 0, atol=1e-10)
    assert np.max(np.abs(jax.grad(total)(best, 2 * coef))) > 0.05


def gspo_by_definition(log_probs, behavior, advantages):
    """Row by row in numpy: mean over texts of max(-A s, -A clip(s)), one advantage a text."""
    total = 0.0
    for row, length in enumerate(LENGTHS):
        d = np.asarray(log_probs - behavior)[row, :length]
        s = np.exp(d.sum() / length)
        a = float(advantages[row, 0])
        total += max(-a * s, -a * np.clip(s, 0.8, 1.3))
    return total / len(LENGTHS)


@pytest.mark.parametrize("seed", range(4))
def test_gspo_is_its_definition(seed, float64):
    log_probs, behavior, advantages = batch(seed)
    rows = jnp.broadcast_to(advantages[:, :1], advantages.shape)
    losses = gspo_loss(log_probs, behavior, rows, MASK, **CLIP)
    found = aggregate(losses, MASK, mode="sequence_mean")
    np.testing.assert_allclose(found, gspo_by_definition(log_probs, behavior, rows), rtol=1e-12)
    tokens = ppo_clip_loss(log_probs, behavior, rows, **CLIP)
    assert abs(float(found - aggregate(tokens, MASK, mode="sequence_mean"))) > 1e-3


def test_gspo_clips_a_text_as_a_whole():
    d = jnp.log(jnp.array([[4.0, 1.0], [0.9, 1.0]]))  # ratios of the texts: 2 and 0.95
    args = jnp.zeros((2, 2)), jnp.ones((2, 2))
    found = gradient(lambda *x: gspo_loss(*x, whole_mask(d), **CLIP), d, *args)
    np.testing.assert_allclose(found, [[0, 0], [-(0.9**0.5)] * 2], rtol=1e-5)
    by_token = gradient(functools.partial(ppo_clip_loss, **CLIP), d, *args)
    assert by_token[0].tolist() == [0, -1]  # a clip per token keeps the second


def test_gspo_spreads_the_mean_of_unequal_advantages(float64):
    log_probs, _, advantages = batch()
    found = gradient(lambda *x: gspo_loss(*x, MASK, **CLIP), log_probs, log_probs, advantages)
    means = np.sum(np.where(MASK, advantages, 0), axis=1) / LENGTHS
    np.testing.assert_allclose(found, np.where(MASK, -means[:, None], 0), rtol=1e-12)


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
def test_padding_reaches_neither_the_ratio_of_a_text_nor_its_gradient(junk):
    clean = batch()
    dirty = [jnp.where(MASK, x, junk) for x in clean]

    def total(log_probs, behavior, advantages):
        losses = gspo_loss(log_probs, behavior, advantages, MASK, **CLIP)
        return aggregate(losses, MASK, mode="sequence_mean")

    np.testing.assert_array_equal(
        sequence_log_ratio(dirty[0], clean[1], MASK), sequence_log_ratio(*clean[:2], MASK)
    )
    assert total(*dirty) == total(*clean)
    gradients = [jax.grad(total)(*x) for x in (clean, dirty)]
    np.testing.assert_array_equal(*gradients)
    assert np.all(gradients[0][~MASK] == 0)
    real = dirty[0].at[0, 0].set(jnp.nan)
    assert np.isnan(total(real, *clean[1:]))


def test_a_text_without_tokens_has_ratio_one():
    log_probs, behavior, advantages = batch()
    none = jnp.zeros((3, 4), bool)
    assert sequence_log_ratio(log_probs, behavior, none).tolist() == [0, 0, 0]
    assert np.all(gspo_loss(log_probs, behavior, advantages, none, **CLIP) == 0)


@pytest.mark.parametrize("name", SURROGATES)
def test_finite_at_extremes(name):
    log_ratios, advantages = jnp.meshgrid(
        jnp.array([50.0, -50.0, 150.0, -150.0, 1e4, -1e4]), jnp.array([100.0, -100.0, 0.0])
    )
    column = lambda x: x.reshape(-1, 1)  # a text each, so that one cannot hide another
    log_probs, args = (
        column(jnp.full((3, 6), -1.0)),
        (column(-1.0 - log_ratios), column(advantages)),
    )
    assert np.all(np.isfinite(SURROGATES[name](log_probs, *args)))
    assert np.all(np.isfinite(gradient(SURROGATES[name], log_probs, *args)))


@pytest.mark.parametrize("name", SURROGATES)
def test_nan_is_not_hidden(name):
    for bad in range(3):
        if name == "reinforce" and bad == 1:
            continue  # it has no sampler
        args = [jnp.full((1, 1), jnp.nan if i == bad else -1.0) for i in range(3)]
        assert np.isnan(SURROGATES[name](*args))


def test_traced_hyperparameters_under_jit_and_vmap():
    args = batch()

    def all_of_them(eps):
        kwargs = dict(clip_low=eps, clip_high=eps)
        return (
            log_clip_loss(*args, **kwargs),
            gspo_loss(*args, MASK, **kwargs),
            cispo_loss(*args, clip_high=eps),
            penalised(*args, coef=eps),
        )

    lanes = jax.jit(jax.vmap(all_of_them))(jnp.array([0.1, 0.9]))
    for lane, eps in enumerate((0.1, 0.9)):
        for found, expected in zip(lanes, all_of_them(eps)):
            np.testing.assert_allclose(found[lane], expected, rtol=1e-4, atol=1e-6)


def test_shapes_are_checked():
    for loss in SURROGATES.values():
        with pytest.raises(AssertionError):
            loss(jnp.zeros((2, 2)), jnp.zeros((2, 2)), jnp.zeros((2, 1)))
    with pytest.raises(AssertionError):
        kl_penalty_loss(jnp.zeros(2), jnp.zeros(2), jnp.zeros(2), jnp.zeros(()), penalty_coef=1.0)
    with pytest.raises(AssertionError):
        gspo_loss(*[jnp.zeros((2, 2))] * 4, **CLIP)  # a mask of floats
    with pytest.raises(AssertionError):
        sequence_log_ratio(jnp.zeros(2), jnp.zeros(2), jnp.ones(2, bool))
