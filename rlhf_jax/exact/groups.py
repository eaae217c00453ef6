"""Where GRPO leads: its advantages are not the reward's, so its optimum is not the tilt."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from rlhf_jax.ops.advantages import grpo_advantages
from rlhf_jax.types import Array

STEPS, RATE = 4000, 0.05


def expected_advantages(log_probs: Array, rewards: Array, group_size: int) -> Array:
    """Mean of the group-standardised advantage of each completion, over the others of its group.

    `w(y) = E[A_1 | y_1 = y]`, the other G - 1 drawn from the policy: all `S^(G - 1)` are summed, so
    this is for few completions and small groups.

    Args:
        log_probs: [S] of the policy; rewards: [S].
        group_size: G >= 2.

    Returns:
        [S]; its mean under the policy is 0.

    Source: Shao et al. 2024, arXiv:2402.03300, for the advantage.
    """
    size, others = log_probs.shape[0], group_size - 1
    grid = jnp.stack(jnp.meshgrid(*[jnp.arange(size)] * others, indexing="ij"), axis=-1)
    grid = grid.reshape(-1, others)  # [S^(G - 1), G - 1]
    chance = jnp.exp(jnp.sum(log_probs[grid], axis=-1))

    def of(reward: Array) -> Array:
        own = jnp.broadcast_to(reward, (grid.shape[0], 1))
        groups = jnp.concatenate([own, rewards[grid]], axis=1)
        return jnp.sum(chance * grpo_advantages(groups)[:, 0])

    return jax.vmap(of)(rewards)


def grpo_fixed_point(
    ref: Array, rewards: Array, beta: float | Array, *, group_size: int, estimator: str = "k3"
) -> Array:
    """Where GRPO with a KL in the loss comes to rest, [P, S], for completions of one token.

    At rest `w(y) - beta d(y)` is the same for all completions, with `w` of `expected_advantages`
    under the policy itself, and d the slope of the estimator's loss: `-ref / pi` for k3,
    `log(pi / ref)` for k2. Found by mirror ascent from the reference.

    Args:
        ref: [P, S] log-probabilities of the reference; rewards: [P, S].
        beta: > 0, coefficient of the KL.
        group_size: G; estimator: k3, or k2.
    """

    def step(_: Array, log_probs: Array) -> Array:
        gain = jax.vmap(lambda p, r: expected_advantages(p, r, group_size))(log_probs, rewards)
        ratio = log_probs - ref
        slope = -jnp.exp(-ratio) if estimator == "k3" else ratio
        return jax.nn.log_softmax(log_probs + RATE * (gain - beta * slope), axis=-1)

    return lax.fori_loop(0, STEPS, step, jax.nn.log_softmax(ref, axis=-1))
