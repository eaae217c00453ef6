"""Schedules and steps by hand, against optax, and with every number traced."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.config import OptimConfig, merge_dynamic, split_dynamic
from rlhf_jax.optim import learning_rate, make_optimizer, scale_by_tf_adam

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
GRADS = {"w": jnp.array([3.0, 0.1]), "b": jnp.array(-4.0)}


PAIR = {"policy": PARAMS, "value": {"head": jnp.array([0.3, 0.2])}}
PAIR_GRADS = {"policy": GRADS, "value": {"head": jnp.array([0.0, 0.5])}}


def rates(steps, total=10, per_update=1, **settings):
    config = OptimConfig(learning_rate=2.0, **settings)
    return [float(learning_rate(config, jnp.array(s), total, per_update)) for s in steps]


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"schedule": "constant"}, [2.0, 2.0, 2.0, 2.0]),
        ({"schedule": "linear"}, [2.0, 1.0, 0.2, 0.0]),
        ({"schedule": "cosine"}, [2.0, 1.0, 1 - np.cos(0.1 * np.pi), 0.0]),
        ({"schedule": "linear", "final_scale": 0.5}, [2.0, 1.5, 1.1, 1.0]),
        ({"schedule": "constant", "final_scale": 0.5}, [2.0, 2.0, 2.0, 2.0]),
        ({"schedule": "constant", "warmup": 0.5}, [0.4, 2.0, 2.0, 2.0]),
    ],
)
def test_learning_rate_at_steps_0_5_9_and_after_the_end(settings, expected):
    np.testing.assert_allclose(rates([0, 5, 9, 12], **settings)[:3], expected[:3], atol=1e-6)
    assert rates([12], **settings)[0] == pytest.approx(expected[3], abs=1e-6)


def test_decay_starts_when_the_warm_up_ends():
    found = rates(range(10), schedule="linear", warmup=0.4)
    expected = [0.5, 1.0, 1.5, 2.0, 2.0, 10 / 6, 8 / 6, 1.0, 4 / 6, 2 / 6]
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_rate_per_update_stands_still_within_it():
    by_update = {"schedule": "linear", "anneal_per": "update"}
    expected = [2.0] * 4 + [4 / 3] * 4 + [2 / 3] * 4 + [0.0]
    np.testing.assert_allclose(rates(range(13), 12, 4, **by_update), expected, atol=1e-6)
    by_step = rates(range(13), 12, 4, schedule="linear")  # the number of updates is not read
    np.testing.assert_allclose(by_step, [2 - i / 6 for i in range(13)], atol=1e-6)


def test_a_rate_per_update_warms_up_in_updates():
    found = rates(range(8), 8, 2, schedule="linear", anneal_per="update", warmup=0.5)
    np.testing.assert_allclose(found, [1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0], atol=1e-6)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_updates_of_one_step_are_steps(schedule):
    settings = {"schedule": schedule, "warmup": 0.2, "final_scale": 0.1}
    by_update = rates(range(12), anneal_per="update", **settings)
    assert by_update == rates(range(12), **settings)


def test_the_optimizer_follows_the_rate_of_the_update():
    config = OptimConfig(
        learning_rate=1.0, schedule="linear", anneal_per="update", epsilon=1e6, max_grad_norm=None
    )
    tx = make_optimizer(config, 6, steps_per_update=2)
    state, sizes = tx.init(PARAMS), []
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(6):
            updates, state = tx.update(GRADS, state, PARAMS)
            sizes.append(float(updates["b"]))
    rate = [1.0, 1.0, 2 / 3, 2 / 3, 1 / 3, 1 / 3]
    np.testing.assert_allclose(sizes, [4e-6 * r for r in rate], rtol=1e-4)


def run(tx, params, grads, steps):
    state = tx.init(params)
    with jax.numpy_dtype_promotion("standard"):
        for _ in range(steps):
            updates, state = tx.update(grads, state, params)
            params = jax.tree.map(jnp.add, params, updates)
    return params


def update(hparams, static=None, params=PARAMS, grads=GRADS, steps=2):
    static = split_dynamic(OptimConfig())[0] if static is None else static
    return run(make_optimizer(merge_dynamic(static, hparams), 10), params, grads, steps)


def assert_alike(a, b, **tolerance):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, **tolerance)


@pytest.mark.parametrize("style", ["optax", "tensorflow"])
@pytest.mark.parametrize("value_rate", [None, 0.2])
def test_traced_numbers_over_lanes_equal_solo_runs(style, value_rate):
    static, hparams = split_dynamic(
        OptimConfig(
            schedule="cosine", weight_decay=0.1, epsilon_style=style, value_rate_factor=value_rate
        )
    )
    other = hparams | {"learning_rate": 0.05, "beta1": 0.5, "beta2": 0.9, "epsilon": 0.01}
    other |= {"max_grad_norm": 0.3}
    if value_rate:
        other["value_rate_factor"] = 0.7
    step = lambda h: update(h, static, PAIR, PAIR_GRADS)
    together = jax.jit(jax.vmap(step))(jax.tree.map(lambda *x: jnp.array(x), hparams, other))
    for i, lane in enumerate((hparams, other)):
        assert_alike(jax.tree.map(lambda x, i=i: x[i], together), step(lane), atol=1e-5)


def test_clipping_is_by_the_global_norm():
    # With a huge epsilon Adam's first step is gradient / epsilon, so the clipped size shows.
    _, hparams = split_dynamic(OptimConfig(learning_rate=1e6, epsilon=1e6, max_grad_norm=1.0))
    moved = jax.tree.map(jnp.subtract, PARAMS, update(hparams, steps=1))
    norm = float(np.sqrt(3.0**2 + 0.1**2 + 4.0**2))
    np.testing.assert_allclose(moved["w"], GRADS["w"] / norm, rtol=1e-4)
    np.testing.assert_allclose(moved["b"], GRADS["b"] / norm, rtol=1e-4)


def test_weight_decay_is_decoupled_from_adam():
    config = OptimConfig(learning_rate=0.1, weight_decay=0.5)
    static, hparams = split_dynamic(config)
    zero = jax.tree.map(jnp.zeros_like, GRADS)
    moved = update(hparams, static, grads=zero, steps=1)
    np.testing.assert_allclose(moved["w"], PARAMS["w"] * (1 - 0.1 * 0.5), atol=1e-6)


@pytest.mark.parametrize("fixed", [{}, {"value_rate_factor": 0.1}, {"max_grad_norm": None}])
def test_the_state_has_one_layout_whatever_the_numbers(fixed):
    numbers = [{}, {"weight_decay": 0.1}, {"learning_rate": 9.0}, {"schedule": "linear"}]
    numbers.append({"epsilon_style": "tensorflow"})
    layouts = {
        jax.tree.structure(make_optimizer(OptimConfig(**fixed, **s), 10).init(PAIR))
        for s in numbers
    }
    assert len(layouts) == 1


def test_without_a_bound_nothing_is_clipped():
    # With a huge epsilon what Adam's first step moves is the gradient itself.
    settings = {"learning_rate": 1e6, "epsilon": 1e6}
    static, hparams = split_dynamic(OptimConfig(max_grad_norm=None, **settings))
    moved = jax.tree.map(jnp.subtract, PARAMS, update(hparams, static, steps=1))
    assert_alike(moved, GRADS, rtol=1e-4)
    loose = update(split_dynamic(OptimConfig(max_grad_norm=1e9, **settings))[1], steps=1)
    assert_alike(update(hparams, static, steps=1), loose, atol=0)


def adam_steps(tx_at, grads):
    """Updates of a transformation that may change from step to step, on one number."""
    state, found = tx_at(1).init(grads[0]), []
    with jax.numpy_dtype_promotion("standard"):
        for t, grad in enumerate(grads, start=1):
            step, state = tx_at(t).update(grad, state)
            found.append(float(step))
    return found


def test_tensorflow_adam_by_hand():
    # Moments 1, 1 and then -0.5, 1.75; step sizes 0.5 / 0.5 and sqrt(0.4375) / 0.75.
    tx = scale_by_tf_adam(b1=0.5, b2=0.75, eps=0.5)
    found = adam_steps(lambda t: tx, [jnp.array(2.0), jnp.array(-2.0)])
    np.testing.assert_allclose(found, [1 / 1.5, -0.5 * 0.8819171 / 1.8228757], rtol=1e-6)


def test_tensorflow_adam_is_optax_with_an_epsilon_that_falls(float64):
    grads = [jnp.array(x) for x in (3e-3, -1e-5, 2e-4, 0.0, 1e-3)]
    tf = adam_steps(lambda t: scale_by_tf_adam(0.9, 0.999, 1e-4), grads)
    corrected = lambda t: optax.scale_by_adam(0.9, 0.999, 1e-4 / np.sqrt(1 - 0.999**t))
    np.testing.assert_allclose(tf, adam_steps(corrected, grads), rtol=1e-10)
    plain = adam_steps(lambda t: optax.scale_by_adam(0.9, 0.999, 1e-4), grads)
    assert all(abs(a) < 0.9 * abs(b) for a, b in zip(tf, plain))  # the same epsilon, longer steps


def test_at_the_first_step_the_tensorflow_epsilon_counts_31_times():
    grad = [jnp.array(1e-5)]
    step = lambda make: adam_steps(lambda t: make(b1=0.9, b2=0.999, eps=1e-5), grad)[0]
    assert step(optax.scale_by_adam) == pytest.approx(1 / 2, rel=1e-3)
    assert step(scale_by_tf_adam) == pytest.approx(1 / (1 + 1000**0.5), rel=1e-3)


def test_without_epsilon_both_adams_are_one(float64):
    grads = [jnp.array(x) for x in (3e-3, -1e-5, 2e-4, 1e-3)]
    tf = adam_steps(lambda t: scale_by_tf_adam(eps=1e-30), grads)
    plain = adam_steps(lambda t: optax.scale_by_adam(eps=1e-30), grads)
    np.testing.assert_allclose(tf, plain, rtol=1e-10)


@pytest.mark.parametrize("style, make", [("optax", optax.adam), ("tensorflow", None)])
def test_the_style_is_the_one_asked_for(style, make):
    config = OptimConfig(
        learning_rate=0.1, epsilon=0.5, beta2=0.75, max_grad_norm=None, epsilon_style=style
    )
    tf = optax.chain(scale_by_tf_adam(0.9, 0.75, 0.5), optax.scale(-0.1))
    expected = make(0.1, b1=0.9, b2=0.75, eps=0.5) if make else tf
    found = run(make_optimizer(config, 10), PARAMS, GRADS, 3)
    assert_alike(found, run(expected, PARAMS, GRADS, 3), atol=1e-6)


OWN = {"learning_rate": 0.1, "max_grad_norm": 0.3, "weight_decay": 0.2, "schedule": "linear"}


def test_values_with_a_rate_of_their_own_learn_as_if_alone():
    def alone(part, rate):
        tx = make_optimizer(OptimConfig(**(OWN | {"learning_rate": rate})), 10)
        return run(tx, PAIR[part], PAIR_GRADS[part], 3)

    tx = make_optimizer(OptimConfig(**OWN, value_rate_factor=4.0), 10)
    found = run(tx, PAIR, PAIR_GRADS, 3)
    assert_alike(found["policy"], alone("policy", 0.1), atol=1e-7)
    assert_alike(found["value"], alone("value", 0.4), atol=1e-7)


def test_one_optimizer_clips_policy_and_values_together():
    def moved(**settings):
        config = OptimConfig(learning_rate=1e6, epsilon=1e6, max_grad_norm=1.0, **settings)
        return -run(make_optimizer(config, 10), PAIR, PAIR_GRADS, 1)["value"]["head"][1] + 0.2

    norm = np.sqrt(3.0**2 + 0.1**2 + 4.0**2 + 0.5**2)
    assert moved() == pytest.approx(0.5 / norm, rel=1e-3)
    assert moved(value_rate_factor=1.0) == pytest.approx(0.5, rel=1e-3)  # its norm is below 1


def test_without_values_the_rate_for_them_changes_nothing():
    found = run(make_optimizer(OptimConfig(value_rate_factor=0.4), 10), PARAMS, GRADS, 2)
    assert_alike(found, update(split_dynamic(OptimConfig())[1]), atol=0)


def test_a_value_inside_the_policy_is_the_policys():
    nested = {"policy": {"value": jnp.array(1.0)}, "value": jnp.array(1.0)}
    grads = jax.tree.map(jnp.ones_like, nested)
    config = OptimConfig(learning_rate=0.1, value_rate_factor=4.0)
    found = run(make_optimizer(config, 10), nested, grads, 1)
    assert float(found["policy"]["value"]) == pytest.approx(0.9, abs=1e-5)
    assert float(found["value"]) == pytest.approx(0.6, abs=1e-5)
