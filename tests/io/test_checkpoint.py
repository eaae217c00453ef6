"""Checkpoints come back bit for bit, whole, or with an error that names the leaf."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.io.checkpoint import CheckpointStore
from rlhf_jax.io.params import CheckpointError
from rlhf_jax.types import Key, Params, record


@record
class State:
    params: Params
    opt_state: tuple
    key: Key
    step: jax.Array


def state_of(seed, width=3):
    key = jax.random.key(seed)
    params = {
        "layers": {0: {"w": jax.random.normal(key, (2, width))}},
        "half": jax.random.normal(key, (5,), jnp.bfloat16),
        "mask": jnp.array([True, False]),
        "empty": {},
    }
    keys = {"one": key, "many": jax.random.split(jax.random.key(seed, impl="rbg"), 3)}
    opt_state = (None, [np.arange(4.0), 7 + seed], keys)
    step = jnp.asarray(seed, jnp.int32)
    return State(params=params, opt_state=opt_state, key=key, step=step)


def raw(leaf):
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b)):
        assert type(x) is type(y)
        assert getattr(x, "dtype", None) == getattr(y, "dtype", None)
        assert raw(x).shape == raw(y).shape and raw(x).tobytes() == raw(y).tobytes()


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep=2)
    yield store
    store.close()


def test_round_trip_is_bitwise_and_typed(store, tmp_path):
    store.save(3, state_of(1), {"seconds": 1.5, "loss": float("nan")})
    again = CheckpointStore(tmp_path / "checkpoints")
    state, metadata = again.restore(3, state_of(2))
    again.close()
    assert_same(state, state_of(1))
    assert isinstance(state, State) and metadata == {"seconds": 1.5, "loss": None}


def test_restored_state_is_independent_of_the_template_and_donatable(store):
    store.save(1, state_of(1))
    like = state_of(2)
    state, _ = store.restore(1, like)
    step = jax.jit(lambda p: jax.tree.map(jnp.copy, p), donate_argnums=0)
    step(state.params)
    assert_same(like, state_of(2))


def test_keeps_the_newest_and_the_first_of_two_equal_steps(store):
    assert store.latest() is None
    for step in (1, 2, 3):
        store.save(step, state_of(step))
    store.save(3, state_of(9))
    assert store.latest() == 3
    assert_same(store.restore(3, state_of(0))[0], state_of(3))
    with pytest.raises(CheckpointError, match="no checkpoint 1"):
        store.restore(1, state_of(0))


def test_half_written_checkpoints_are_not_seen(store, tmp_path):
    store.save(1, state_of(1))
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "1", folder / "2.orbax-checkpoint-tmp")
    (folder / "2.orbax-checkpoint-tmp" / "commit_success.txt").unlink()
    again = CheckpointStore(folder)
    assert again.latest() == 1
    again.save(2, state_of(2))
    assert again.latest() == 2
    again.close()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"layers": {0: {"w": jnp.ones((2, 4))}}}, r"params/layers/0/w is float32\[2, 3\],"),
        ({"half": jnp.ones(5)}, r"params/half is bfloat16\[5\], this run wants float32\[5\]"),
        ({"new": jnp.ones(5)}, "params/new is missing from the checkpoint"),
    ],
)
def test_mismatch_names_the_leaf(store, change, message):
    store.save(1, state_of(1))
    like = state_of(1)
    like = State(
        params=like.params | change, opt_state=like.opt_state, key=like.key, step=like.step
    )
    with pytest.raises(CheckpointError, match=message) as error:
        store.restore(1, like)
    assert "\n" not in str(error.value)
