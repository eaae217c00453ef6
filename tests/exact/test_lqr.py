"""A15: the linear-quadratic regulator against the Riccati equation, moments and quadrature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.exact.lqr import Regulator, optimal_gain, policy_cost, policy_return
from rlhf_jax.losses.policy_gradient import reinforce_loss
from rlhf_jax.ops.policies import Gaussian

pytestmark = pytest.mark.usefixtures("float64")
GAIN = np.array([[0.3, 0.5]])
SPREAD, START = np.array([[0.2]]), np.array([[1.0, 0.2], [0.2, 0.5]])


@pytest.fixture(scope="module")
def task():
    """A mass that is pushed: position and speed."""
    return Regulator(
        a=np.array([[1.0, 0.1], [0.0, 0.95]]),
        b=np.array([[0.0], [0.3]]),
        q=np.diag([1.0, 0.1]),
        r=np.array([[0.2]]),
        noise=np.diag([0.01, 0.02]),
        gamma=0.95,
    )


def simulated(task, gain, spread, start, steps=1500):
    """The expected return by the second moments of the state, step by step, in numpy."""
    moment, total = start, 0.0
    for t in range(steps):
        action = gain @ moment @ gain.T + spread
        total -= task.gamma**t * (np.trace(task.q @ moment) + np.trace(task.r @ action))
        closed = task.a - task.b @ gain
        moment = closed @ moment @ closed.T + task.b @ spread @ task.b.T + task.noise
    return total


def test_the_value_is_that_of_the_moments(task):
    found = float(policy_return(task, GAIN, SPREAD, START))
    assert found == pytest.approx(simulated(task, GAIN, SPREAD, START), abs=1e-9)
    p, _ = policy_cost(task, GAIN, SPREAD)
    without = -float(jnp.trace(p @ START))  # the control: what is drawn costs something
    assert abs(without - found) > 0.1


def test_the_riccati_gain_is_where_the_gradient_vanishes(task):
    best = optimal_gain(task)
    slope = jax.grad(policy_return, argnums=1)
    np.testing.assert_allclose(slope(task, best, SPREAD, START), 0.0, atol=1e-9)
    wrong = optimal_gain(task._replace(gamma=0.8))  # the control: another discount
    assert np.abs(slope(task, wrong, SPREAD, START)).max() > 1e-2
    for other in (GAIN, wrong, best + 0.01, best - 0.01):
        assert policy_return(task, other, SPREAD, START) < policy_return(task, best, SPREAD, START)


def test_exploring_only_costs(task):
    best = optimal_gain(task)
    still, stirred = (float(policy_return(task, best, s, START)) for s in (0 * SPREAD, SPREAD))
    assert stirred < still


@pytest.mark.parametrize("off", [0.0, 0.3])
def test_our_policy_gradient_is_that_of_the_return(off):
    """Expected gradient of our loss, its advantages exact, by quadrature over states and actions.

    `off` is what is wrong with the value of the next state: the control.
    """
    one = np.eye(1)
    task = Regulator(0.9 * one, 0.5 * one, one, 0.3 * one, 0.04 * one, gamma=0.8)
    log_std, gain, start = np.log(0.5), np.array([[0.4]]), np.array([[0.7]])
    spread = np.exp(2 * log_std) * one
    p, c = (np.asarray(x) for x in policy_cost(task, gain, spread))
    nodes, weights = np.polynomial.hermite_e.hermegauss(6)  # exact for what is of degree 11
    weights = weights / weights.sum()
    z, e = (x.reshape(-1, 1) for x in np.meshgrid(nodes, nodes))
    mass = np.outer(weights, weights).reshape(-1)

    def loss(params, state, action, advantages):
        log_std = jnp.broadcast_to(params["log_std"], state.shape)
        policy = Gaussian(-state @ params["gain"].T, log_std)
        return jnp.sum(mass * reinforce_loss(policy.log_prob(action), advantages))

    params = {"gain": gain, "log_std": np.array([log_std])}
    total, moment = jax.tree.map(np.zeros_like, params), start
    gradient = jax.jit(jax.grad(loss))
    for t in range(130):
        state = np.sqrt(moment) * z
        action = -state @ gain.T + np.exp(log_std) * e
        after = state @ task.a.T + action @ task.b.T
        value = lambda x: -(x**2 * p + c)[:, 0]
        expected = value(after) - (task.noise * p)[0, 0] + off * after[:, 0] ** 2
        paid = -(state**2 + 0.3 * action**2)[:, 0]
        advantages = paid + task.gamma * expected - value(state)
        found = gradient(params, state, action, advantages)
        weight = task.gamma**t
        total = {k: total[k] - weight * np.asarray(found[k]) for k in params}
        closed = task.a - task.b @ gain
        moment = closed @ moment @ closed.T + task.b @ spread @ task.b.T + task.noise

    def worth(params):
        return policy_return(task, params["gain"], jnp.exp(2 * params["log_std"])[None], start)

    exact = jax.grad(worth)(params)
    errors = [np.abs(total[k] - exact[k]).max() for k in params]
    assert max(errors) < 1e-9 if off == 0.0 else max(errors) > 1e-2
