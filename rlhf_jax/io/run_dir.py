"""The run directory: what a run leaves behind, where, and how it is written safely."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf_jax.config import UserError
from rlhf_jax.io.atomic import replacing
from rlhf_jax.io.flat import flat as flat
from rlhf_jax.machine import cores, processor

SOURCE = Path(__file__).resolve().parents[1]  # the package, wherever the run is started from
PACKAGES = ("rlhf_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


@dataclass(frozen=True)
class RunDir:
    """Names of everything a run writes.

    >>> RunDir("outputs/first").metrics.as_posix()
    'outputs/first/metrics.jsonl'
    """

    path: Path

    def __init__(self, path: str | os.PathLike[str]):
        object.__setattr__(self, "path", Path(path))

    @property
    def metrics(self) -> Path:
        """One JSON object a logged update."""
        return self.path / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """Final numbers, stage times, versions, device, config hash."""
        return self.path / "summary.json"

    @property
    def samples(self) -> Path:
        """Completions before and after training."""
        return self.path / "samples.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Training states to resume from."""
        return self.path / "checkpoints"

    def params(self, name: str) -> Path:
        """Parameters of a finished stage: `sft`, `reward_model` or `policy`."""
        return self.checkpoints / f"{name}.safetensors"

    @property
    def wandb_run_id(self) -> Path:
        """Which W&B run shows this one, so that a resumed run goes on there."""
        return self.path / "wandb_run_id"

    @property
    def plots(self) -> Path:
        """Pictures of the run."""
        return self.path / "plots"

    def create(self) -> RunDir:
        """Makes the directories; harmless when they exist. Returns itself.

        Raises:
          UserError: a file stands where the run directory should be.
        """
        try:
            for folder in (self.path, self.checkpoints, self.plots):
                folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            message = f"run directory {self.path}: a file of that name is in the way"
            raise UserError(message) from None
        return self


def finite(value: Any) -> tuple[Any, int]:
    """Turns `value` into plain JSON data and counts the numbers that were not finite.

    Args:
      value: nested dicts, lists, tuples, dataclass-free numbers, numpy or jax arrays.

    >>> finite({"loss": float("nan"), "steps": (1, 2.5)})
    ({'loss': None, 'steps': [1, 2.5]}, 1)
    """
    if isinstance(value, Mapping):
        inner = {str(k): finite(v) for k, v in value.items()}
        return {k: v for k, (v, _) in inner.items()}, sum(n for _, n in inner.values())
    if isinstance(value, list | tuple):
        items = [finite(v) for v in value]
        return [v for v, _ in items], sum(n for _, n in items)
    if hasattr(value, "tolist"):  # numpy and jax arrays and scalars
        return finite(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None, 1
    if isinstance(value, os.PathLike):
        return os.fspath(value), 0
    return value, 0


def json_line(row: Mapping[str, Any]) -> str:
    """One object on one line; non-finite numbers become null and are counted in `nonfinite`.

    >>> json_line({"update": 3, "loss": float("inf")})
    '{"update": 3, "loss": null, "nonfinite": 1}'
    """
    plain, count = finite(row)
    if count:
        plain["nonfinite"] = count
    return json.dumps(plain, allow_nan=False)


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Replaces `path` by `data` as JSON; a reader sees the old file or the new one, never half."""
    plain, count = finite(data)
    if count:
        plain["nonfinite"] = count
    write_text(path, json.dumps(plain, indent=2, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replaces `path` by one JSON object a line, as safely as `write_json`."""
    write_text(path, "".join(json_line(row) + "\n" for row in rows))


def write_text(path: Path, text: str) -> None:
    """Replaces `path` by `text`, as safely as `write_json`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def config_hash(config: Mapping[str, Any]) -> str:
    """Hash of a nested dict of plain values; the order of keys does not matter.

    Raises:
      TypeError: a value is not a number, string, bool, None, list or dict.

    >>> config_hash({"a": 1, "b": {"c": 2.5}}) == config_hash({"b": {"c": 2.5}, "a": 1})
    True
    """
    text = json.dumps(config, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def run_facts() -> dict[str, Any]:
    """Versions, device, commit and the time (UTC) of this process, for `summary.json`."""
    import jax

    device = jax.devices()[0]
    return {
        "versions": {"python": platform.python_version(), **_versions()},
        "platform": device.platform,
        "device_kind": device.device_kind,
        "devices": jax.device_count(),
        "cores": cores(),
        "system": platform.platform(),
        "processor": processor(),
        "git_commit": git_commit(),
        "recorded": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def _versions() -> dict[str, str | None]:
    from rlhf_jax import __version__

    return {"rlhf_jax": __version__} | {n: _version(n) for n in PACKAGES if n != "rlhf_jax"}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit(folder: str | os.PathLike[str] = SOURCE) -> str | None:
    """Commit of the repository that holds `folder`, "-dirty" if it has changes.

    None outside a repository, and where the one around `folder` does not hold it: a package
    installed into a project's virtual environment is not the project.
    """
    if not _git(folder, "ls-files", "."):
        return None
    # The hash, not the nearest tag.
    return _git(folder, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*")


def _git(folder: str | os.PathLike[str], *words: str) -> str | None:
    command = ["git", "-C", os.fspath(folder), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
