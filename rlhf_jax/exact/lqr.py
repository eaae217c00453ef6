"""The linear-quadratic regulator: a control task whose optimum and every linear policy are known.

The state follows `x' = A x + B u + w` with `w ~ N(0, W)`, a step pays `-(x^T Q x + u^T R u)`, and
a policy is `u ~ N(-K x, S)`. See Fazel et al. 2018 (arXiv:1801.05039), here with a discount.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy.linalg import solve_discrete_are

from rlhf_jax.types import Array


class Regulator(NamedTuple):
    """The task: N state and M action dimensions, Q and R positive (semi)definite."""

    a: Array  # [N, N]
    b: Array  # [N, M]
    q: Array  # [N, N]
    r: Array  # [M, M]
    noise: Array  # W, [N, N]
    gamma: float  # in (0, 1)


def optimal_gain(task: Regulator) -> np.ndarray:
    """K* [M, N] of the best policy, from the discounted Riccati equation.

    `P = Q + g A'PA - g^2 A'PB (R + g B'PB)^-1 B'PA`, `K* = g (R + g B'PB)^-1 B'PA`. It is the
    equation without a discount for `sqrt(g) A` and `sqrt(g) B`; exploring only costs.

    Raises:
      numpy.linalg.LinAlgError: no gain keeps the discounted cost finite.

    >>> one = np.eye(1)
    >>> task = Regulator(one, one, one, one, 0 * one, gamma=0.5)
    >>> optimal_gain(task).round(4).tolist()
    [[0.4142]]
    """
    a, b = (np.sqrt(task.gamma) * np.asarray(x) for x in (task.a, task.b))
    p = solve_discrete_are(a, b, np.asarray(task.q), np.asarray(task.r))
    return np.linalg.solve(np.asarray(task.r) + b.T @ p @ b, b.T @ p @ a)


def policy_cost(task: Regulator, gain: Array, spread: Array) -> tuple[Array, Array]:
    """`(P, c)` of a policy, so that its value is `V(x) = -(x'Px + c)`.

    `P = Q + K'RK + g (A - BK)' P (A - BK)`, and what is drawn adds
    `c = (tr(R S) + g tr(P (W + B S B'))) / (1 - g)`. Differentiable. It means something where
    the discounted state does not grow, `sqrt(g) rho(A - BK) < 1`.

    Args:
      gain: K, [M, N].
      spread: S, the covariance of the actions [M, M].

    >>> one = jnp.eye(1)
    >>> task = Regulator(one, one, one, one, 0 * one, gamma=0.5)
    >>> p, c = policy_cost(task, one, one)  # goes to 0 at once, but for what it draws
    >>> float(p[0, 0]), float(c)  # 1 + 1; (1 + 0.5 * 2) / 0.5
    (2.0, 4.0)
    """
    closed = task.a - task.b @ gain
    now = task.q + gain.T @ task.r @ gain
    size = now.shape[0]
    # Row by row, vec(M' P M) is (M' kron M') vec(P).
    system = jnp.eye(size**2) - task.gamma * jnp.kron(closed.T, closed.T)
    p = jnp.linalg.solve(system, now.reshape(-1)).reshape(size, size)
    stirred = task.noise + task.b @ spread @ task.b.T
    drawn = jnp.trace(task.r @ spread) + task.gamma * jnp.trace(p @ stirred)
    return p, drawn / (1.0 - task.gamma)


def policy_return(task: Regulator, gain: Array, spread: Array, start: Array) -> Array:
    """`J = -(tr(P X0) + c)`, the expected discounted return; `start` is `E[x0 x0']`, [N, N]."""
    p, c = policy_cost(task, gain, spread)
    return -(jnp.trace(p @ start) + c)
