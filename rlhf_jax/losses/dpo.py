"""Direct preference losses per pair, from log-probabilities of whole completions."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from rlhf_jax.ops.checks import assert_floats_alike
from rlhf_jax.types import Array


def _rewards(
    chosen_log_probs: Array,
    rejected_log_probs: Array,
    ref_chosen_log_probs: Array,
    ref_rejected_log_probs: Array,
    beta: float | Array,
) -> tuple[Array, Array]:
    """The rewards a policy implies, up to a constant per prompt. Eq. 5 of arXiv:2305.18290."""
    assert_floats_alike(chosen_log_probs, rejected_log_probs)
    assert_floats_alike(chosen_log_probs, ref_chosen_log_probs, ref_rejected_log_probs)
    chosen = beta * (chosen_log_probs - ref_chosen_log_probs)
    rejected = beta * (rejected_log_probs - ref_rejected_log_probs)
    return chosen, rejected


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
    chosen_rewards, rejected_rewards = _rewards(
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta
    )
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
    chosen_rewards, rejected_rewards = _rewards(
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta
    )
    chosen_ratios = chosen_log_probs - ref_chosen_log_probs
    rejected_ratios = rejected_log_probs - ref_rejected_log_probs
    losses = jnp.square(chosen_ratios - rejected_ratios - 1 / (2 * beta))
    return losses, chosen_rewards, rejected_rewards


def hinge_loss(
    chosen_log_probs: Array,
    rejected_log_probs: Array,
    ref_chosen_log_probs: Array,
    ref_rejected_log_probs: Array,
    *,
    beta: float | Array,
) -> tuple[Array, Array, Array]:
    """Calibration with a hinge: `max(0, 1 - m)`.

    With the margin `m` of `dpo_loss`: a pair whose rewards are 1 apart is left alone.

    Args:
        chosen_log_probs: float, any shape, of the policy, summed over the completion's tokens.
        rejected_log_probs: same shape.
        ref_chosen_log_probs: same shape, of the frozen reference.
        ref_rejected_log_probs: same shape.
        beta: > 0, the inverse of the gap of log-ratios that is asked for.

    Returns:
        Losses, chosen rewards and rejected rewards, each of the same shape, per pair.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: SLiC-HF, Zhao et al. 2023, arXiv:2305.10425, on the log-ratios to the reference as in
    RSO, Liu et al. 2023, arXiv:2309.06657.

    >>> ref = jnp.array([-3.0])
    >>> hinge_loss(jnp.array([-2.0]), jnp.array([-3.5]), ref, ref, beta=0.5)[0].tolist()
    [0.25]
    """
    chosen_rewards, rejected_rewards = _rewards(
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta
    )
    losses = jax.nn.relu(1 - (chosen_rewards - rejected_rewards))
    return losses, chosen_rewards, rejected_rewards


def robust_dpo_loss(
    chosen_log_probs: Array,
    rejected_log_probs: Array,
    ref_chosen_log_probs: Array,
    ref_rejected_log_probs: Array,
    *,
    beta: float | Array,
    label_smoothing: float | Array = 0.0,
) -> tuple[Array, Array, Array]:
    """DPO loss whose mean over flipped labels is DPO's on the true ones.

    `((1 - s) l(m) - s l(-m)) / (1 - 2 s)` with `l(m) = -log sigmoid(m)` and the margin `m` of
    `dpo_loss`. Where `dpo_loss` smooths towards equal rewards, this one corrects for the flips: it
    goes to minus infinity, linearly, as `m` grows (for `s > 0`).

    Args:
        chosen_log_probs: float, any shape, of the policy, summed over the completion's tokens.
        rejected_log_probs: same shape.
        ref_chosen_log_probs: same shape, of the frozen reference.
        ref_rejected_log_probs: same shape.
        beta: > 0, the KL coefficient.
        label_smoothing: `s` in [0, 0.5), the chance that a label was flipped.

    Returns:
        Losses, of either sign, chosen rewards and rejected rewards, each of the same shape, per
        pair.

    Raises:
        AssertionError: shapes differ, or an input is not float.

    Source: Chowdhury et al. 2024, arXiv:2403.00409.

    >>> ref = jnp.array([-3.0])
    >>> args = jnp.array([-1.0]), jnp.array([-4.0]), ref, ref
    >>> round(robust_dpo_loss(*args, beta=0.5, label_smoothing=0.25)[0].item(), 4)
    -0.5486
    """
    chosen_rewards, rejected_rewards = _rewards(
        chosen_log_probs, rejected_log_probs, ref_chosen_log_probs, ref_rejected_log_probs, beta
    )
    margins = chosen_rewards - rejected_rewards
    right, wrong = jax.nn.log_sigmoid(margins), jax.nn.log_sigmoid(-margins)
    losses = (label_smoothing * wrong - (1 - label_smoothing) * right) / (1 - 2 * label_smoothing)
    return losses, chosen_rewards, rejected_rewards
