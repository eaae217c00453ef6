"""Dynamic programming against value iteration, automatic differentiation and play."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.envs.gridworld import GridParams, GridState, Gridworld
from rlhf_jax.envs.layout import shipped
from rlhf_jax.envs.protocol import MDP
from rlhf_jax.exact.mdp import (
    action_values,
    expected_return,
    optimal_values,
    performance_difference,
    policy_gradient,
    policy_values,
    visitation,
)

GAMMA = 0.95


def random_mdp(seed, states=7, actions=3):
    """Rows that sum to less than 1: some episodes end."""
    rng = np.random.default_rng(seed)
    moves = rng.dirichlet(np.ones(states), (states, actions)) * rng.uniform(
        0.5, 1.0, (states, actions, 1)
    )
    start = rng.dirichlet(np.ones(states))
    return MDP(
        transitions=jnp.asarray(moves),
        rewards=jnp.asarray(rng.normal(size=(states, actions))),
        start=jnp.asarray(start),
    )


def random_policy(mdp, seed):
    rng = np.random.default_rng(seed)
    return jax.nn.softmax(jnp.asarray(rng.normal(size=mdp.rewards.shape)), axis=1)


def test_values_solve_the_bellman_equation(float64):
    mdp = random_mdp(0)
    policy = random_policy(mdp, 1)
    values = policy_values(mdp, policy, GAMMA)
    backed_up = jnp.sum(policy * action_values(mdp, values, GAMMA), axis=1)
    np.testing.assert_allclose(values, backed_up, atol=1e-12)


@pytest.mark.parametrize("layout", shipped())
def test_the_optimum_is_that_of_value_iteration(float64, layout):
    mdp = Gridworld(layout).tables()
    found, q = optimal_values(mdp, GAMMA)
    step = jax.jit(lambda v: jnp.max(action_values(mdp, v, GAMMA), axis=1))
    values = jnp.zeros_like(found)
    for _ in range(600):  # 0.95^600 = 4e-14
        values = step(values)
    np.testing.assert_allclose(found, values, atol=1e-9)
    np.testing.assert_allclose(jnp.max(q, axis=1), values, atol=1e-9)


@pytest.mark.parametrize("layout", ["corridor", "cliff"])
def test_the_optimum_without_a_discount(float64, layout):
    """Where the first guess of policy iteration could be one that never ends."""
    mdp = Gridworld(layout).tables()
    found, _ = optimal_values(mdp, 1.0)
    step = jax.jit(lambda v: jnp.max(action_values(mdp, v, 1.0), axis=1))
    values = jnp.zeros_like(found)
    for _ in range(600):
        values = step(values)
    np.testing.assert_allclose(found, values, atol=1e-9)


def test_visits_count_what_values_sum(float64):
    mdp = random_mdp(2)
    policy = random_policy(mdp, 3)
    visits = visitation(mdp, policy, GAMMA)
    total = jnp.sum(visits[:, None] * policy * mdp.rewards)
    np.testing.assert_allclose(total, expected_return(mdp, policy, GAMMA), rtol=1e-12)


def test_the_gradient_is_that_of_the_solved_return(float64):
    mdp = random_mdp(4)
    logits = jnp.asarray(np.random.default_rng(5).normal(size=mdp.rewards.shape))
    returned = lambda x: expected_return(mdp, jax.nn.softmax(x, axis=1), GAMMA)
    expected = jax.grad(returned)(logits)
    found = policy_gradient(mdp, jax.nn.softmax(logits, axis=1), GAMMA)
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("layout", shipped())
def test_the_performance_difference_lemma(float64, layout):
    mdp = Gridworld(layout).tables()
    one, two = random_policy(mdp, 6), random_policy(mdp, 7)
    gap = expected_return(mdp, two, GAMMA) - expected_return(mdp, one, GAMMA)
    np.testing.assert_allclose(performance_difference(mdp, one, two, GAMMA), gap, atol=1e-9)
    # The lemma needs the visits of the other policy; with those of the first it does not hold.
    values = policy_values(mdp, one, GAMMA)
    advantages = action_values(mdp, values, GAMMA) - values[:, None]
    wrong = jnp.sum(visitation(mdp, one, GAMMA)[:, None] * two * advantages)
    assert abs(wrong - gap) > 1e-3


def test_the_tables_are_what_playing_shows():
    env, params = Gridworld("coins"), GridParams(slip=0.3)
    mdp, count = env.tables(params), 20000
    keys = jax.random.split(jax.random.key(0), count)
    rng = np.random.default_rng(0)
    states = rng.choice(np.flatnonzero(env.layout.reachable), 6)
    play = jax.jit(
        jax.vmap(
            lambda key, place, action: env.step(
                key, GridState(place=place, time=jnp.zeros((), jnp.int32)), action, params
            ),
            in_axes=(0, None, None),
        )
    )
    for place in states:
        action = int(rng.integers(4))
        _, _, reward, ended, _, info = play(keys, jnp.int32(place), jnp.int32(action))
        seen = jnp.mean(jnp.where(ended[:, None], 0.0, info["final_observation"]), axis=0)
        np.testing.assert_allclose(seen, mdp.transitions[place, action], atol=0.015)
        np.testing.assert_allclose(jnp.mean(reward), mdp.rewards[place, action], atol=0.02)
