"""Finite decision processes solved: values, the optimum, visits and the policy gradient.

Everything is linear algebra on the tables of an `MDP` with S states and A actions. The discount
must be below 1, or every policy asked about must end its episodes with certainty.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from rlhf_jax.envs.protocol import MDP
from rlhf_jax.types import Array

MAX_ROUNDS = 1000  # of policy iteration, which needs about ten


def _moves(mdp: MDP, policy: Array) -> Array:
    """`P^pi` [S, S]."""
    return jnp.einsum("sa,sat->st", policy, mdp.transitions)


def policy_values(mdp: MDP, policy: Array, gamma: float | Array) -> Array:
    """Value of each state: `V = (I - gamma P^pi)^-1 r^pi`.

    Args:
        mdp: tables of S states and A actions.
        policy: float [S, A], rows sum to 1.
        gamma: discount of a step, in [0, 1).

    Returns:
        [S], in points.

    Source: Eq. 4.4 of Sutton and Barto 2018, "Reinforcement Learning", solved as a linear system.

    >>> mdp = MDP(
    ...     transitions=jnp.array([[[0.5]]]), rewards=jnp.array([[1.0]]), start=jnp.array([1.0])
    ... )
    >>> policy_values(mdp, jnp.array([[1.0]]), 1.0).tolist()  # half of the episodes end
    [2.0]
    """
    gains = jnp.sum(policy * mdp.rewards, axis=1)
    identity = jnp.eye(gains.shape[0], dtype=gains.dtype)
    return jnp.linalg.solve(identity - gamma * _moves(mdp, policy), gains)


def action_values(mdp: MDP, values: Array, gamma: float | Array) -> Array:
    """`Q(s, a) = r(s, a) + gamma sum_s' P(s' | s, a) V(s')`, [S, A]."""
    return mdp.rewards + gamma * jnp.einsum("sat,t->sa", mdp.transitions, values)


def optimal_policy(mdp: MDP, gamma: float | Array, *, tolerance: float | None = None) -> Array:
    """The best policy [S, A], one-hot, by policy iteration.

    Values are those of the policy, and an action is exchanged where another is better by more than
    `tolerance` (default: 100 times the rounding error of the largest value), so that ties cannot
    make it run in circles.

    It begins with the best reply to the values of the uniform policy, which ends its episodes
    wherever any policy does. So a discount of 1 is right too where going on for ever is infinitely
    bad: each step then costs something, and improving such a policy never loses its end.

    Source: Howard 1960; Section 4.3 of Sutton and Barto 2018; for a discount of 1, Bertsekas and
    Tsitsiklis 1991, "An analysis of stochastic shortest path problems".
    """
    actions = mdp.rewards.shape[1]
    dtype = mdp.rewards.dtype
    best = lambda q: jnp.argmax(q, axis=1)

    def better(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        chosen, _, rounds = carry
        values = policy_values(mdp, jax.nn.one_hot(chosen, actions, dtype=dtype), gamma)
        q = action_values(mdp, values, gamma)
        scale = jnp.maximum(jnp.max(jnp.abs(q)), 1.0)
        least = 100 * jnp.finfo(dtype).eps * scale if tolerance is None else tolerance
        gain = jnp.max(q, axis=1) - jnp.take_along_axis(q, chosen[:, None], axis=1)[:, 0]
        changed = gain > least
        return jnp.where(changed, best(q), chosen), jnp.any(changed), rounds + 1

    uniform = jnp.full_like(mdp.rewards, 1.0 / actions)
    reply = best(action_values(mdp, policy_values(mdp, uniform, gamma), gamma))
    start = reply, jnp.array(True), jnp.zeros((), jnp.int32)
    more = lambda carry: carry[1] & (carry[2] < MAX_ROUNDS)
    return jax.nn.one_hot(lax.while_loop(more, better, start)[0], actions, dtype=dtype)


def optimal_values(mdp: MDP, gamma: float | Array) -> tuple[Array, Array]:
    """`V*` [S] and `Q*` [S, A]; `V*(s) = max_a Q*(s, a)` up to rounding."""
    values = policy_values(mdp, optimal_policy(mdp, gamma), gamma)
    return values, action_values(mdp, values, gamma)


def expected_return(mdp: MDP, policy: Array, gamma: float | Array) -> Array:
    """`J(pi) = sum_s start(s) V^pi(s)`, in points."""
    return jnp.sum(mdp.start * policy_values(mdp, policy, gamma))


def visitation(mdp: MDP, policy: Array, gamma: float | Array) -> Array:
    """Expected discounted visits of each state: `d = (I - gamma P^pi)^-T start`, [S].

    Their sum is the discounted length of an episode. `J(pi) = sum_s d(s) r^pi(s)`.
    """
    identity = jnp.eye(mdp.start.shape[0], dtype=mdp.start.dtype)
    return jnp.linalg.solve((identity - gamma * _moves(mdp, policy)).T, mdp.start)


def policy_gradient(mdp: MDP, policy: Array, gamma: float | Array) -> Array:
    """Gradient of `J` in the logits of each state: `d(s) pi(a|s) (Q(s, a) - V(s))`, [S, A].

    Source: Theorem 1 of Sutton et al. 2000, "Policy gradient methods for reinforcement learning
    with function approximation", for a softmax table.
    """
    values = policy_values(mdp, policy, gamma)
    advantages = action_values(mdp, values, gamma) - values[:, None]
    return visitation(mdp, policy, gamma)[:, None] * policy * advantages


def performance_difference(mdp: MDP, policy: Array, other: Array, gamma: float | Array) -> Array:
    """`J(other) - J(policy)` from the advantages of `policy` where `other` goes.

    `sum_s d^other(s) sum_a other(a|s) A^policy(s, a)`.

    Source: Lemma 6.1 of Kakade and Langford 2002, "Approximately optimal approximate reinforcement
    learning".
    """
    values = policy_values(mdp, policy, gamma)
    advantages = action_values(mdp, values, gamma) - values[:, None]
    return jnp.sum(visitation(mdp, other, gamma)[:, None] * other * advantages)
