"""Files appear whole or not at all."""

import stat

import pytest

from rlhf_jax.io import atomic
from rlhf_jax.io.atomic import replacing


def test_a_new_file_is_an_ordinary_one(tmp_path):
    path, plain = tmp_path / "a" / "b", tmp_path / "plain"
    plain.write_text("")
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and [p.name for p in path.parent.iterdir()] == ["b"]
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


@pytest.mark.parametrize("cause", [OSError, KeyboardInterrupt])
def test_a_failed_block_leaves_the_old_file(tmp_path, cause):
    path = tmp_path / "b"
    path.write_text("old")
    with pytest.raises(cause), replacing(path) as temporary:
        temporary.write_text("half")
        raise cause
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_failed_rename_leaves_nothing(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError("disk full")

    monkeypatch.setattr(atomic.os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"), replacing(tmp_path / "a" / "b") as temporary:
        temporary.write_bytes(b"x")
    assert not list((tmp_path / "a").iterdir())
