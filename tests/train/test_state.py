"""The training state: what a bad gradient may not touch, and where randomness comes from."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.train.state import apply_gradients, init_state, stream

TX = optax.adam(0.1)
ONE = jnp.float32(1.0)


@pytest.fixture
def state():
    params = {"a": jnp.array([1.0, 2.0]), "b": {"c": jnp.array(3.0)}}
    start = init_state(params, TX, jax.random.key(0), kl_coef=jnp.array(0.1))
    return apply_gradients(start, jax.tree.map(jnp.ones_like, params), ONE, TX)[0]


def with_bad_entry(grads, value):
    return {**grads, "a": grads["a"].at[1].set(value)}


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_a_step_that_is_not_finite_changes_nothing_but_the_count(state, bad, where):
    grads = jax.tree.map(jnp.ones_like, state.params)
    grads = with_bad_entry(grads, bad) if where == "gradient" else grads
    after, _ = apply_gradients(state, grads, jnp.float32(bad) if where == "loss" else ONE, TX)
    for old, new in zip(
        jax.tree.leaves((state.params, state.opt_state)),
        jax.tree.leaves((after.params, after.opt_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(old, new)
    assert (int(after.skipped), int(after.skipped_in_a_row)) == (1, 1)


def test_the_streak_ends_with_a_good_step_and_the_count_stays(state):
    good = jax.tree.map(jnp.ones_like, state.params)
    for grads in (with_bad_entry(good, jnp.nan), with_bad_entry(good, jnp.nan), good):
        state, _ = apply_gradients(state, grads, ONE, TX)
    assert (int(state.skipped), int(state.skipped_in_a_row)) == (2, 0)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(state.params))


def test_the_norm_is_that_before_clipping():
    params = {"w": jnp.zeros(2)}
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0))
    state = init_state(params, tx, jax.random.key(0))
    after, norm = apply_gradients(state, {"w": jnp.array([3.0, 4.0])}, ONE, tx)
    assert float(norm) == 5.0
    np.testing.assert_allclose(after.params["w"], [-0.6, -0.8], atol=1e-6)


def test_a_new_state_counts_from_0_and_is_a_pytree(state):
    fresh = init_state(state.params, TX, jax.random.key(0))
    assert [int(x) for x in (fresh.update, fresh.skipped, fresh.skipped_in_a_row)] == [0, 0, 0]
    doubled = jax.tree.map(lambda x: x, state)
    assert dataclasses.asdict(doubled).keys() == dataclasses.asdict(state).keys()


def test_streams_differ_by_purpose_step_and_seed_only():
    key, data = jax.random.key(0), jax.random.key_data
    bits = lambda *args: tuple(np.asarray(data(stream(*args))).tolist())
    assert bits(key, "rollout", 3) == bits(key, "rollout", jnp.array(3))
    others = [(key, "rollout", 4), (key, "minibatches", 3), (jax.random.key(1), "rollout", 3)]
    assert len({bits(*args) for args in [(key, "rollout", 3), *others]}) == 4
