"""Fact A16: Bradley-Terry fixes a reward up to a constant per prompt, and no constant matters."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.losses.dpo import dpo_loss
from rlhf_jax.losses.reward_model import bradley_terry_loss, centering_loss

from .tabular import QUICK, bandit, gradient_of, other, same, settings

RNG = np.random.default_rng(4)
GOLD = RNG.normal(size=(3, 4))  # prompts, texts
CONSTANTS = np.array([2.0, -1.0, 0.5])[:, None]
SAMPLER = RNG.dirichlet(np.ones(48)).reshape(3, 4, 4)
WINS = 1 / (1 + np.exp(GOLD[:, None, :] - GOLD[:, :, None]))  # [prompt, i, j], i is preferred


@functools.partial(jax.jit, static_argnums=(3, 4), compiler_options=QUICK)
def loss_and_derivatives(scores, chosen, margin, centering, across):
    """Of the population loss in the scores [3, 4] of a reward model that can be anything."""

    def total(flat):
        scores = flat.reshape(3, 4)
        rejected = jnp.roll(scores, 1, axis=0) if across else scores  # of another prompt
        shape = (3, 4, 4)
        better = jnp.broadcast_to(scores[:, :, None], shape)
        worse = jnp.broadcast_to(rejected[:, None, :], shape)
        losses = bradley_terry_loss(better, worse, margin=margin)
        return jnp.sum(chosen * (losses + centering * centering_loss(better, worse)))

    flat = scores.ravel()
    return jax.grad(total)(flat), jax.hessian(total)(flat)


def slope(scores, wins=WINS, margin=0.0, centering=0.0, across=False):
    """Gradient and Hessian; a sampled pair is labelled in either order."""
    chosen = wins * (SAMPLER + SAMPLER.transpose(0, 2, 1)) * (1 - np.eye(4))
    args = jnp.asarray(scores), jnp.asarray(chosen), jnp.asarray(margin)
    return [np.asarray(x) for x in loss_and_derivatives(*args, centering, across)]


def test_the_optimum_is_gold_and_a_constant_per_prompt(float64):
    for offset in (0.0, CONSTANTS):
        same(slope(GOLD + offset)[0], 0.0)
    other(slope(1.1 * GOLD)[0], 0.0)  # the scale is fixed
    other(slope(GOLD + 0.3 * np.eye(3, 4))[0], 0.0)
    other(slope(GOLD, wins=WINS.transpose(0, 2, 1))[0], 0.0, by=0.01)
    other(slope(GOLD, margin=0.3)[0], 0.0)
    other(slope(GOLD + CONSTANTS, centering=0.01)[0], 0.0)
    other(slope(GOLD + CONSTANTS, across=True)[0], 0.0, by=0.01)  # prompts mixed up
    # Exactly one free direction a prompt, and Newton's method from 0 finds the rest.
    assert np.sum(np.linalg.eigvalsh(slope(GOLD)[1]) < 1e-9) == 3


def test_newtons_method_finds_it_from_nothing(float64):
    scores = np.zeros((3, 4))
    for _ in range(30):
        gradient, curvature = slope(scores)
        scores = scores - (np.linalg.pinv(curvature, rcond=1e-10) @ gradient).reshape(3, 4)
    within = lambda x: x - x.mean(axis=1, keepdims=True)
    same(within(scores), within(GOLD))
    other(scores, GOLD, by=0.01)  # the constants are not found, and need not be


SPACE = bandit(4)
POLICY, REF = RNG.normal(size=(2, 1, 4))
LOGITS = RNG.normal(size=(2, 3, 4))  # of a reference and a policy for the three prompts
GROUPED = {
    "rloo": settings(advantage="rloo", group_size=3, kl_placement="reward"),
    "dr_grpo": settings(advantage="dr_grpo", group_size=3),
    "grpo": settings(advantage="grpo", group_size=3),
    "grpo with the KL in the loss": settings(advantage="grpo", group_size=3, kl_placement="loss"),
}


@pytest.mark.parametrize("name", GROUPED)
def test_recentred_rewards_give_groups_the_same_gradient(name, float64):
    grad = lambda reward: gradient_of(GROUPED[name], SPACE, reward, POLICY, REF, coef=0.3, group=3)
    same(grad(GOLD[0] + 2.0), grad(GOLD[0]))
    other(grad(GOLD[0] + np.array([2.0, 0.0, 0.0, 0.0])), grad(GOLD[0]))


def test_without_a_baseline_the_constant_is_gone_only_on_policy(float64):
    grad = lambda surrogate, sampler, reward: gradient_of(
        settings(surrogate=surrogate), SPACE, reward, POLICY, REF, sampler=sampler
    )
    same(grad("none", POLICY, GOLD[0] + 2.0), grad("none", POLICY, GOLD[0]))
    old = POLICY + np.array([[0.5, 0.0, 0.0, 0.0]])
    same(grad("none", old, GOLD[0] + 2.0), grad("none", old, GOLD[0]))  # the ratio makes up for it
    other(grad("reinforce", old, GOLD[0] + 2.0), grad("reinforce", old, GOLD[0]))


def dpo_gradient(gold):
    """Over the population's pairs of all prompts, labelled by `gold`; prompts have own policies."""
    wins = 1 / (1 + np.exp(gold[:, None, :] - gold[:, :, None]))
    weights = jnp.asarray(wins * (SAMPLER + SAMPLER.transpose(0, 2, 1)) * (1 - np.eye(4)))
    shape = (3, 4, 4)
    better = lambda x: jnp.broadcast_to(x[:, :, None], shape)
    worse = lambda x: jnp.broadcast_to(x[:, None, :], shape)
    ref = jax.nn.log_softmax(jnp.asarray(LOGITS[0]))

    def total(logits):
        log_probs = jax.nn.log_softmax(logits)
        args = better(log_probs), worse(log_probs), better(ref), worse(ref)
        return jnp.sum(weights * dpo_loss(*args, beta=0.3)[0])

    return np.asarray(jax.jit(jax.grad(total), compiler_options=QUICK)(jnp.asarray(LOGITS[1])))


def test_dpo_never_sees_the_constant(float64):
    same(dpo_gradient(GOLD + CONSTANTS), dpo_gradient(GOLD))
    other(dpo_gradient(GOLD + CONSTANTS * np.arange(4)), dpo_gradient(GOLD))
