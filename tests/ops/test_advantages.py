"""GAE against its definition as a double sum and on an enumerable episode; group baselines."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.ops.advantages import (
    best_of_group,
    dr_grpo_advantages,
    gae,
    grpo_advantages,
    rloo_advantages,
)

GROUP = {"grpo": grpo_advantages, "dr_grpo": dr_grpo_advantages, "rloo": rloo_advantages}


def gae_by_definition(rewards, discounts, values, gae_lambda):
    """A_t = sum_l lambda^l (prod of the discounts between) delta_{t+l}, term by term."""
    steps = range(len(rewards))
    deltas = [rewards[t] + discounts[t] * values[t + 1] - values[t] for t in steps]
    advantages = []
    for t in steps:
        total = 0.0
        for last in range(t, len(rewards)):
            total += gae_lambda ** (last - t) * np.prod(discounts[t:last]) * deltas[last]
        advantages.append(total)
    return np.array(advantages)


def stream(seed, steps=12):
    rng = np.random.default_rng(seed)
    discounts = np.where(rng.random(steps) < 0.2, 0.0, 0.97)
    return rng.normal(size=steps), discounts, rng.normal(size=steps + 1)


def test_gae_by_hand():
    rewards, values = jnp.array([1.0, 2.0]), jnp.array([0.5, 1.0, 4.0])
    found = gae(rewards, jnp.array([0.5, 0.5]), values, gae_lambda=0.5)
    # delta = [1 + 0.5 - 0.5, 2 + 2 - 1] = [1, 3]; A_0 = 1 + 0.5 * 0.5 * 3
    assert found.tolist() == [1.75, 3.0]
    assert found.tolist() != [2.5, 3.0]  # lambda forgotten
    ended = gae(rewards, jnp.array([0.5, 0.0]), values, gae_lambda=0.5)
    assert ended.tolist() == [1.25, 1.0]  # no bootstrap past the end
    shifted = gae(rewards, jnp.array([0.0, 0.5]), values, gae_lambda=0.5)
    assert ended.tolist() != shifted.tolist()  # `done` of the wrong step


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.95, 1.0])
def test_scan_equals_double_sum(gae_lambda, float64):
    for seed in range(5):
        args = stream(seed)
        found = gae(*map(jnp.array, args), gae_lambda=gae_lambda)
        np.testing.assert_allclose(found, gae_by_definition(*args, gae_lambda), rtol=1e-12)


def test_lambda_one_telescopes_to_return_less_value(float64):
    rewards, discounts, values = stream(7)
    returns, following = [], values[-1]
    for reward, discount in zip(rewards[::-1], discounts[::-1]):
        following = reward + discount * following
        returns.append(following)
    found = gae(jnp.array(rewards), jnp.array(discounts), jnp.array(values), gae_lambda=1.0)
    np.testing.assert_allclose(found, np.array(returns[::-1]) - values[:-1], rtol=1e-12)


def expected_first_advantage(value_error, gae_lambda, gamma=0.9):
    """E[A_0 | first action = 1] over all 3-step binary episodes, less the true Q - V."""
    probs, steps = np.array([0.3, 0.7]), 3

    def reward(history):  # depends on the whole history, so values differ at every node
        return 0.5 * sum(a * (i + 1) for i, a in enumerate(history)) * (-1) ** history[0]

    def value(history):
        if len(history) == steps:
            return 0.0
        nexts = [(*history, a) for a in (0, 1)]
        return sum(p * (reward(h) + gamma * value(h)) for p, h in zip(probs, nexts))

    expected = 0.0
    for episode in itertools.product((0, 1), repeat=steps):
        if episode[0] != 1:
            continue
        prefixes = [episode[:t] for t in range(steps + 1)]
        rewards = jnp.array([reward(h) for h in prefixes[1:]])
        values = [value(h) + value_error * len(h) for h in prefixes[:-1]] + [99.0]
        discounts = jnp.array([gamma] * (steps - 1) + [0.0])
        advantage = gae(rewards, discounts, jnp.array(values), gae_lambda=gae_lambda)[0]
        expected += float(np.prod(probs[list(episode[1:])]) * advantage)
    return expected - (reward((1,)) + gamma * value((1,)) - value(()))


@pytest.mark.parametrize("gae_lambda", [0.0, 0.6, 1.0])
def test_unbiased_for_every_lambda_if_the_values_are_right(gae_lambda, float64):
    np.testing.assert_allclose(expected_first_advantage(0.0, gae_lambda), 0, atol=1e-12)


def test_bias_of_wrong_values_by_enumeration(float64):
    """Values off by e at step 1 and 2e at step 2: bias = gamma e (1 - l) (1 + 2 gamma l)."""
    for gae_lambda in (0.0, 0.6, 1.0):
        expected = 0.9 * 0.5 * (1 - gae_lambda) * (1 + 2 * 0.9 * gae_lambda)
        found = expected_first_advantage(0.5, gae_lambda)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_gae_under_jit_and_vmap_with_traced_lambda():
    batch = [np.stack(x).astype(np.float32) for x in zip(*(stream(seed) for seed in range(3)))]
    lambdas = jnp.array([0.0, 0.5, 1.0])

    def one(rewards, discounts, values, gae_lambda):
        return gae(rewards, discounts, values, gae_lambda=gae_lambda)

    found = jax.jit(jax.vmap(one))(*map(jnp.array, batch), lambdas)
    for i in range(3):
        expected = gae_by_definition(*(x[i].astype(np.float64) for x in batch), float(lambdas[i]))
        np.testing.assert_allclose(found[i], expected, rtol=1e-4, atol=1e-5)


def test_gae_checks_lengths_and_shows_nan():
    with pytest.raises(AssertionError):
        gae(jnp.zeros(3), jnp.zeros(3), jnp.zeros(3), gae_lambda=1.0)  # no bootstrap value
    with pytest.raises(AssertionError):
        gae(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.zeros((2, 4)), gae_lambda=1.0)
    rewards = jnp.array([0.0, jnp.nan, 0.0])
    found = gae(rewards, jnp.ones(3), jnp.zeros(4), gae_lambda=1.0)
    assert np.isnan(found).tolist() == [True, True, False]


def test_group_advantages_by_hand():
    scores = jnp.array([[4.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    assert dr_grpo_advantages(scores)[0].tolist() == [3.0, -1.0, -1.0, -1.0]
    np.testing.assert_allclose(rloo_advantages(scores)[0], [4, -4 / 3, -4 / 3, -4 / 3], rtol=1e-6)
    assert float(rloo_advantages(scores)[0, 0]) != 3.0  # its own score left in the baseline
    root = 3**0.5  # variance 3 with ddof 0 and 4 with ddof 1
    found = grpo_advantages(scores)[0]
    np.testing.assert_allclose(found, [root, -1 / root, -1 / root, -1 / root], rtol=1e-6)
    np.testing.assert_allclose(grpo_advantages(scores, ddof=1)[0, 0], 1.5, rtol=1e-6)
    np.testing.assert_allclose(grpo_advantages(scores, epsilon=1.0)[0, 0], 3 / (root + 1))


@pytest.mark.parametrize("name", GROUP)
def test_rloo_and_the_others_from_their_definitions(name, float64):
    scores = np.random.default_rng(3).normal(size=(2, 3, 5))
    found = np.asarray(GROUP[name](jnp.array(scores)))
    for index in np.ndindex(2, 3):
        group = scores[index]
        for i, score in enumerate(group):
            expected = {
                "grpo": (score - group.mean()) / group.std(),
                "dr_grpo": score - group.mean(),
                "rloo": score - np.delete(group, i).mean(),
            }[name]
            np.testing.assert_allclose(found[index][i], expected, rtol=1e-7)


@pytest.mark.parametrize("name", GROUP)
def test_equal_scores_give_zero_and_a_finite_gradient(name):
    scores = jnp.full(3, 0.1)  # three times 0.1 does not sum to 0.3 in float32
    assert GROUP[name](scores).tolist() == [0.0, 0.0, 0.0]
    assert np.all(np.isfinite(jax.jacobian(GROUP[name])(scores)))
    assert np.all(np.isfinite(GROUP[name](jnp.array([1e15, -1e15, 0.0]))))
    assert np.all(np.isnan(GROUP[name](jnp.array([1.0, jnp.nan]))))


@pytest.mark.parametrize("name", GROUP)
def test_a_group_of_one_is_refused(name):
    with pytest.raises(ValueError, match="at least 2"):
        GROUP[name](jnp.ones((4, 1)))


@pytest.mark.parametrize(
    "p, weight", [(0.02, 2.573), (0.1, 2.328), (0.5, 1.856), (0.9, 2.328), (0.98, 2.573)]
)
def test_expected_gradient_weight_on_a_binary_reward(p, weight, float64):
    """E[mean_i A_i s_i] = c dp for s_i = d log P(y_i): RLOO c = 1, Dr. GRPO (G - 1) / G."""
    size, found = 8, dict.fromkeys(GROUP, 0.0)
    for wins in range(size + 1):
        ways = len(list(itertools.combinations(range(size), wins)))
        chance = ways * p**wins * (1 - p) ** (size - wins)
        scores = jnp.array([1.0] * wins + [0.0] * (size - wins))
        score_function = np.where(np.asarray(scores) > 0, 1 / p, -1 / (1 - p))
        for name, advantages in GROUP.items():
            found[name] += chance * float(np.mean(advantages(scores) * score_function))
    np.testing.assert_allclose(found["rloo"], 1.0, rtol=1e-10)
    np.testing.assert_allclose(found["dr_grpo"], 7 / 8, rtol=1e-10)
    np.testing.assert_allclose(found["grpo"], weight, atol=6e-4)


def test_best_of_group_by_hand():
    scores = jnp.array([[[1.0, 3.0, 2.0]], [[2.0, -1.0, 2.0]], [[0.0, 0.0, 0.0]]])
    assert best_of_group(scores).tolist() == [[[0, 1, 0]], [[1, 0, 0]], [[1, 0, 0]]]
    assert best_of_group(scores).dtype == scores.dtype
    assert best_of_group(-scores)[0].tolist() == [[1, 0, 0]]  # the worst, were the sign wrong
    assert best_of_group(jnp.array([[7.0]])).tolist() == [[1.0]]
    assert best_of_group(jnp.array([jnp.inf, -jnp.inf])).tolist() == [1.0, 0.0]


def test_best_of_group_keeps_one_text_whatever_the_scale():
    scores = jnp.array(np.random.default_rng(4).normal(size=(6, 5)), jnp.float32)
    best = best_of_group(scores)
    assert np.all(jnp.sum(best, axis=-1) == 1)
    np.testing.assert_array_equal(jnp.sum(best * scores, axis=-1), jnp.max(scores, axis=-1))
    np.testing.assert_array_equal(best_of_group(1e6 * scores + 3.0), best)
    np.testing.assert_array_equal(jax.jit(jax.vmap(best_of_group))(scores), best)


def test_best_of_group_does_not_imitate_a_broken_score():
    found = best_of_group(jnp.array([[1.0, jnp.nan], [0.0, 1.0]]))
    assert np.isnan(found).tolist() == [[True, True], [False, False]]
    with pytest.raises(AssertionError):
        best_of_group(jnp.array([1, 2]))
