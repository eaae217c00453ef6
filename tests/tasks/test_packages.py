"""Archives: cache hits, wrong hashes, and an error one can act on when there is no network."""

import hashlib
import subprocess

import pytest

from rlhf_jax.tasks import packages
from rlhf_jax.tasks.packages import Archive, PackageError, fetch

DATA = b"some archive"
ARCHIVE = Archive("tidy==1.0", "tidy-1.0.tar.gz", hashlib.sha256(DATA).hexdigest(), sdist=True)


def fake_pip(monkeypatch, data=None, stderr="", returncode=0):
    """Puts a pip in place that writes `data` where it was told to; returns the commands it got."""
    commands = []

    def run(command, **_):
        commands.append(command)
        if data is not None:
            into = command[command.index("-d") + 1]
            with open(f"{into}/{ARCHIVE.filename}", "wb") as file:
                file.write(data)
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    monkeypatch.setattr(packages.subprocess, "run", run)
    return commands


def test_downloads_once(tmp_path, monkeypatch):
    commands = fake_pip(monkeypatch, DATA)
    path = fetch(ARCHIVE, str(tmp_path))
    assert path.read_bytes() == DATA
    assert fetch(ARCHIVE, str(tmp_path)) == path
    assert len(commands) == 1
    assert commands[0][-1] == "tidy==1.0"
    assert "--no-deps" in commands[0] and "--no-binary" in commands[0]
    assert [p.name for p in path.parent.iterdir()] == [ARCHIVE.filename]  # nothing half-done left


def test_offline_names_package_path_and_command(tmp_path, monkeypatch):
    fake_pip(monkeypatch, stderr="WARNING: retry\nERROR: No matching distribution\n", returncode=1)
    with pytest.raises(PackageError) as caught:
        fetch(ARCHIVE, str(tmp_path))
    message = str(caught.value)
    assert "\n" not in message
    folder = tmp_path / "packages"
    command = f"pip download --no-deps --no-binary tidy -d '{folder}' tidy==1.0"
    for part in ("tidy==1.0", "No matching distribution", str(folder), command, "setup.py"):
        assert part in message
    assert not list(folder.iterdir())


def test_silent_registry(tmp_path, monkeypatch):
    def run(command, **_):
        raise subprocess.TimeoutExpired(command, 1)

    monkeypatch.setattr(packages.subprocess, "run", run)
    with pytest.raises(PackageError, match="no answer in"):
        fetch(ARCHIVE, str(tmp_path))


def test_wrong_download_is_not_kept(tmp_path, monkeypatch):
    fake_pip(monkeypatch, b"another archive")
    with pytest.raises(PackageError, match=r"downloaded tidy-1\.0.*sha256.*expected"):
        fetch(ARCHIVE, str(tmp_path))
    assert not list((tmp_path / "packages").iterdir())


def test_damaged_cache_says_what_to_delete(tmp_path):
    path = tmp_path / "packages" / ARCHIVE.filename
    path.parent.mkdir()
    path.write_bytes(DATA[:-1])
    with pytest.raises(PackageError, match=r"cached tidy-1\.0.*delete .*tidy-1\.0\.tar\.gz"):
        fetch(ARCHIVE, str(tmp_path))


def test_unusable_cache(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PackageError, match=r"set task\.cache_dir"):
        fetch(ARCHIVE, str(tmp_path / "file" / "below"))
