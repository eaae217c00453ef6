"""The stage cache: equal keys meet, damage is rebuilt, writers do not collide."""

import threading

import jax.numpy as jnp
import numpy as np
import platformdirs

from rlhf_jax.io.stage_cache import StageCache

KEY = {"stage": "sft", "seed": 1, "optim": {"learning_rate": 1e-3}}


def test_put_then_get(tmp_path):
    cache = StageCache(tmp_path)
    assert cache.get(KEY) is None
    cache.put(KEY, {"a": {"w": jnp.arange(3)}}, {"loss": 1.25})
    params, info = StageCache(tmp_path).get(dict(reversed(KEY.items()))) or ({}, {})
    np.testing.assert_array_equal(params["a"]["w"], np.arange(3))
    assert info == {"loss": 1.25}
    assert cache.get(KEY | {"seed": 2}) is None


def test_default_root_is_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("RLHF_JAX_CACHE", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", lambda app: tmp_path / app)
    assert StageCache().root == tmp_path / "rlhf_jax" / "stages"
    monkeypatch.setenv("RLHF_JAX_CACHE", str(tmp_path / "elsewhere"))
    assert StageCache().root == tmp_path / "elsewhere" / "stages"


def test_damaged_entry_is_reported_and_rebuilt(tmp_path, capsys):
    cache = StageCache(tmp_path)
    cache.put(KEY, {"w": jnp.ones(9)}, {})
    file = cache.entry(KEY) / "params.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert cache.get(KEY) is None
    assert "warning: cached stage unreadable, trained again" in capsys.readouterr().err
    cache.put(KEY, {"w": jnp.ones(9)}, {"n": 1})
    assert cache.get(KEY) is not None
    assert [p.name for p in tmp_path.iterdir()] == [cache.entry(KEY).name]


def test_concurrent_writers_leave_one_whole_entry(tmp_path):
    def write(n):
        StageCache(tmp_path).put(KEY, {"w": jnp.full((1000,), n)}, {"n": n})

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    params, info = StageCache(tmp_path).get(KEY) or ({}, {})
    assert (params["w"] == info["n"]).all()
    assert len(list(tmp_path.iterdir())) == 1


def test_unwritable_cache_is_a_warning(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    StageCache(tmp_path / "file" / "stages").put(KEY, {"w": jnp.ones(1)}, {})
    assert "warning: stage not cached" in capsys.readouterr().err
