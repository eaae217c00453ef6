"""Preference losses beyond the pair against a reference: single labels, and no reference at all."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from rlhf_jax.ops.checks import assert_floats_alike
from rlhf_jax.types import Array


def kto_loss(
    log_probs: Array,
    ref_log_probs: Array,
    desirable: Array,
    kl: float | Array,
    *,
    beta: float | Array,
    desirable_weight: float | Array = 1.0,
    undesirable_weight: float | Array = 1.0,
) -> tuple[Array, Array]:
    """Kahneman-Tversky optimization on texts called good or bad, without pairs.

    `w_d (1 - sigmoid(beta (h - kl)))` on a desirable text, `w_u (1 - sigmoid(beta (kl - h)))` on an
    undesirable one, with `h = log pi - log ref`: better or worse than the policy's usual text.

    Args:
        log_probs: float, any shape, of the policy, summed over the text's tokens.
        ref_log_probs: same shape, of the frozen reference.
        desirable: bool, same shape.
        kl: scalar, KL(policy || reference) in nats per text. An estimate below 0 counts as 0, and
            no gradient flows through it.
        beta: > 0; larger, and the loss saturates closer to the reference.
        desirable_weight: > 0.
        undesirable_weight: > 0; keep the weight times the number of texts of both kinds alike.

    Returns:
        Losses in [0, weight] and rewards `beta h`, both of the same shape, per text.

    Raises:
        AssertionError: shapes differ, `kl` is not a scalar, or a dtype is wrong.

    Source: Ethayarajh et al. 2024, arXiv:2402.01306; the paper estimates `kl` from the batch with
    its prompts and texts matched wrongly.

    >>> args = jnp.array([-1.0, -1.0]), jnp.array([-3.0, -3.0]), jnp.array([True, False])
    >>> losses, rewards = kto_loss(*args, kl=1.0, beta=1.0)
    >>> [round(v, 4) for v in losses.tolist()], rewards.tolist()  # sigmoid(-1), sigmoid(1)
    ([0.2689, 0.7311], [2.0, 2.0])
    """
    assert_floats_alike(log_probs, ref_log_probs)
    chex.assert_type(desirable, bool)
    chex.assert_equal_shape([log_probs, desirable])
    chex.assert_rank(kl, 0)
    rewards = beta * (log_probs - ref_log_probs)
    gains = rewards - beta * jnp.maximum(jax.lax.stop_gradient(kl), 0.0)
    # 1 - sigmoid(x) is sigmoid(-x), without the cancellation.
    good = desirable_weight * jax.nn.sigmoid(-gains)
    bad = undesirable_weight * jax.nn.sigmoid(gains)
    return jnp.where(desirable, good, bad), rewards


def simpo_loss(
    chosen_log_probs: Array,
    rejected_log_probs: Array,
    *,
    beta: float | Array,
    margin: float | Array,
    label_smoothing: float | Array = 0.0,
) -> tuple[Array, Array, Array]:
    """Simple preference optimization: `-(1 - s) log sigmoid(m) - s log sigmoid(-m)`.

    With `m = beta (log pi(chosen) - log pi(rejected)) - margin` and the label smoothing `s`. There
    is no reference; dividing by the length takes its place.

    Args:
        chosen_log_probs: float, any shape, of the policy, the *mean* over the completion's tokens.
        rejected_log_probs: same shape.
        beta: > 0; about ten times DPO's, as a mean is so much smaller than a sum.
        margin: >= 0, in units of the reward, called gamma in the paper.
        label_smoothing: in [0, 0.5), the chance that a label is wrong; 0 in the paper.

    Returns:
        Losses, chosen rewards and rejected rewards, each of the same shape, per pair.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: Eq. 6 of Meng et al. 2024, arXiv:2405.14734.

    >>> args = jnp.array([-1.0]), jnp.array([-2.0])
    >>> loss, chosen, rejected = simpo_loss(*args, beta=2.0, margin=0.5)
    >>> round(loss.item(), 4), chosen.tolist(), rejected.tolist()  # -log sigmoid(1.5)
    (0.2014, [-2.0], [-4.0])
    """
    assert_floats_alike(chosen_log_probs, rejected_log_probs)
    chosen_rewards, rejected_rewards = beta * chosen_log_probs, beta * rejected_log_probs
    margins = chosen_rewards - rejected_rewards - margin
    right, wrong = jax.nn.log_sigmoid(margins), jax.nn.log_sigmoid(-margins)
    losses = -(1 - label_smoothing) * right - label_smoothing * wrong
    return losses, chosen_rewards, rejected_rewards


def _log_odds(log_probs: Array) -> Array:
    """`log(p / (1 - p))`; at most that of `p = exp(-eps)`, and no gradient above it."""
    capped = jnp.minimum(log_probs, -jnp.finfo(log_probs.dtype).eps)
    near = capped > -jnp.log(2.0)  # where 1 - p cancels, and expm1 does not
    # Each branch sees only its own half, so that neither has an infinite gradient to multiply by 0.
    log_rest_near = jnp.log(-jnp.expm1(jnp.where(near, capped, -1.0)))
    log_rest_far = jnp.log1p(-jnp.exp(jnp.where(near, -1.0, capped)))
    return capped - jnp.where(near, log_rest_near, log_rest_far)


def orpo_loss(
    chosen_log_probs: Array, rejected_log_probs: Array, *, beta: float | Array
) -> tuple[Array, Array, Array]:
    """The odds-ratio term of ORPO: `-beta log sigmoid(o(chosen) - o(rejected))`.

    With the log-odds `o = log p - log(1 - p)`, where `log p` is the mean log-probability of a
    completion's tokens. The whole loss adds the negative log-likelihood of the chosen text.

    The odds of a certain text are infinite, and so is the gradient of a rejected one. The mean
    log-probability is therefore capped just below 0, at `-eps` of the dtype (-1.2e-7 in float32,
    log-odds of 15.9); at and above the cap its gradient is 0.

    Args:
        chosen_log_probs: float, any shape, of the policy, the *mean* over the completion's tokens.
        rejected_log_probs: same shape.
        beta: > 0, weight of the term, called lambda in the paper.

    Returns:
        The term, chosen rewards and rejected rewards `beta log p`, each of the same shape, per
        pair.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: Eqs. 4 and 7 of Hong et al. 2024, arXiv:2403.07691.

    >>> log_probs = jnp.log(jnp.array([0.75])), jnp.log(jnp.array([0.5]))  # odds 3 and 1
    >>> round(orpo_loss(*log_probs, beta=1.0)[0].item(), 4)  # log 4/3
    0.2877
    """
    assert_floats_alike(chosen_log_probs, rejected_log_probs)
    log_odds_ratios = _log_odds(chosen_log_probs) - _log_odds(rejected_log_probs)
    losses = -beta * jax.nn.log_sigmoid(log_odds_ratios)
    return losses, beta * chosen_log_probs, beta * rejected_log_probs
