"""Direct preference losses per pair, from log-probabilities of whole completions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.ops.checks import assert_floats_alike
from rlhf_jax.types import Array


def _rewards(log_probs: Array, ref_log_probs: Array, beta: float | Array) -> Array:
    """The reward a policy implies, up to a constant per prompt. Eq. 5 of arXiv:2305.18290."""
    return beta * (log_probs - ref_log_probs)


def dpo_loss(
    chosen_log_probs: Array,
    rejected_log_probs: Array,
    ref_chosen_log_probs: Array,
    ref_rejected_log_probs: Array,
    *,
    beta: float | Array,
    label_smoothing: float | Array = 0.0,
) -> tuple[Array, Array, Array]:
    """Direct preference optimization: `-(1 - s) log sigmoid(m) - s log sigmoid(-m)`.

    With the margin `m = reward_chosen - reward_rejected`, `reward = beta (log pi - log ref)` and
    the label smoothing `s`.

    Args:
        chosen_log_probs: float, any shape, of the policy, summed over the completion's tokens.
        rejected_log_probs: same shape.
        ref_chosen_log_probs: same shape, of the frozen reference.
        ref_rejected_log_probs: same shape.
        beta: > 0, the KL coefficient.
        label_smoothing: in [0, 0.5), the chance that a label is wrong ("conservative DPO").

    Returns:
        Losses, chosen rewards and rejected rewards, each of the same shape, per pair.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: Eq. 7 of Rafailov et al. 2023, arXiv:2305.18290; label smoothing: Mitchell 2023,
    "A note on DPO with noisy preferences", Eq. 3 of https://ericmitchell.ai/cdpo.pdf

    >>> ref = jnp.array([-3.0])
    >>> loss, chosen, rejected = dpo_loss(jnp.array([-1.0]), jnp.array([-4.0]), ref, ref, beta=0.5)
    >>> round(loss.item(), 4), chosen.tolist(), rejected.tolist()  # -log sigmoid(1.5)
    (0.2014, [1.0], [-0.5])
    """
    assert_floats_alike(chosen_log_probs, rejected_log_probs)
    assert_floats_alike(chosen_log_probs, ref_chosen_log_probs, ref_rejected_log_probs)
    chosen_rewards = _rewards(chosen_log_probs, ref_chosen_log_probs, beta)
    rejected_rewards = _rewards(rejected_log_probs, ref_rejected_log_probs, beta)
    margins = chosen_rewards - rejected_rewards
    right, wrong = jax.nn.log_sigmoid(margins), jax.nn.log_sigmoid(-margins)
    losses = -(1 - label_smoothing) * right - label_smoothing * wrong
    return losses, chosen_rewards, rejected_rewards


def ipo_loss(
    chosen_log_probs: Array,
    rejected_log_probs: Array,
    ref_chosen_log_probs: Array,
    ref_rejected_log_probs: Array,
    *,
    beta: float | Array,
) -> tuple[Array, Array, Array]:
    """Identity preference optimization: `(h - 1 / (2 beta))^2`.

    With `h = log pi(chosen) / ref(chosen) - log pi(rejected) / ref(rejected)`: the gap has a
    finite optimum even where a pair is always labelled the same way.

    Args:
        chosen_log_probs: float, any shape, of the policy, summed over the completion's tokens
            (some codes use the mean instead, which rescales `beta` by the length).
        rejected_log_probs: same shape.
        ref_chosen_log_probs: same shape, of the frozen reference.
        ref_rejected_log_probs: same shape.
        beta: > 0, called tau in the paper.

    Returns:
        Losses, chosen rewards and rejected rewards, each of the same shape, per pair.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: Eq. 17 of Azar et al. 2023, arXiv:2310.12036.

    >>> ref = jnp.array([-3.0])
    >>> ipo_loss(jnp.array([-1.0]), jnp.array([-4.0]), ref, ref, beta=0.5)[0].tolist()
    [4.0]
    """
    assert_floats_alike(chosen_log_probs, rejected_log_probs)
    assert_floats_alike(chosen_log_probs, ref_chosen_log_probs, ref_rejected_log_probs)
    chosen_ratios = chosen_log_probs - ref_chosen_log_probs
    rejected_ratios = rejected_log_probs - ref_rejected_log_probs
    losses = jnp.square(chosen_ratios - rejected_ratios - 1 / (2 * beta))
    chosen_rewards = _rewards(chosen_log_probs, ref_chosen_log_probs, beta)
    rejected_rewards = _rewards(rejected_log_probs, ref_rejected_log_probs, beta)
    return losses, chosen_rewards, rejected_rewards
