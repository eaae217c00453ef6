"""Parameter files: bitwise, without a template, and honest about damage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.io.params import CheckpointError, load_params, save_params


def test_round_trip_is_bitwise(tmp_path):
    params = {
        "layers": {0: {"w": jnp.arange(6.0).reshape(2, 3)}, 1: {}},
        "half": jax.random.normal(jax.random.key(0), (5,), jnp.bfloat16),
        "count": jnp.asarray(7, jnp.int32),
        "a.b": jnp.zeros((0, 3)),
        "transposed": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    }
    save_params(tmp_path / "new" / "p.safetensors", params, {"loss": 1.5})
    loaded, metadata = load_params(tmp_path / "new" / "p.safetensors")
    assert metadata == {"loss": 1.5}
    assert jax.tree.structure(loaded) == jax.tree.structure(params)
    for x, y in zip(jax.tree.leaves(loaded), jax.tree.leaves(params)):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def test_damage_is_one_line(tmp_path):
    path = tmp_path / "p.safetensors"
    with pytest.raises(CheckpointError, match="no such file"):
        load_params(path)
    save_params(path, {"w": jnp.ones(100)})
    for content in (path.read_bytes()[:-3], b"", b"not a tensor file"):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"p\.safetensors: not a whole parameter file"):
            load_params(path)


def test_names_that_collide_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="same dotted name"):
        save_params(tmp_path / "p", {"a": {"b": jnp.ones(1)}, "a.b": jnp.ones(1)})
