"""Trained stages (SFT, reward model) kept by what went into them, shared between runs."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf_jax import __version__
from rlhf_jax.io import console
from rlhf_jax.io.params import CheckpointError, load_params, save_params
from rlhf_jax.io.run_dir import config_hash, write_json
from rlhf_jax.runtime import user_cache
from rlhf_jax.types import Params

LAYOUT = 3  # raise when old entries must not be read any more


class StageCache:
    """Parameters by the settings that made them.

    Args:
      root: where entries lie; by default the user's cache directory.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None):
        self.root = Path(root or user_cache() / "stages")

    def entry(self, key: Mapping[str, Any]) -> Path:
        """Directory of the stage made by `key`, whether it exists or not."""
        return self.root / f"{config_hash(key)}-{__version__}-{LAYOUT}"

    def get(self, key: Mapping[str, Any]) -> tuple[Params, dict[str, Any]] | None:
        """Parameters and info of an earlier `put` with an equal key; None if there are none.

        Args:
          key: nested dict of plain values: everything the parameters depend on.
        """
        entry = self.entry(key)
        if not entry.is_dir():
            return None
        try:
            return load_params(entry / "params.safetensors")
        except CheckpointError as error:
            console.warn(f"cached stage unreadable, trained again: {error}")
            _discard(entry)
            return None

    def put(self, key: Mapping[str, Any], params: Params, info: Mapping[str, Any]) -> None:
        """Stores a stage; when another process stored it first, theirs stays.

        A cache that cannot be written (full disk, read-only home) is a warning: the run goes on.

        Args:
          key: as in `get`.
          params: nested dict of arrays.
          info: plain values, such as final metrics.
        """
        entry = self.entry(key)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            building = Path(tempfile.mkdtemp(dir=self.root, prefix=".building-"))
            try:
                save_params(building / "params.safetensors", params, info)
                write_json(building / "key.json", key)  # for people who wonder what this is
                os.rename(building, entry)
            finally:
                shutil.rmtree(building, ignore_errors=True)
        except OSError as error:
            if not entry.is_dir():  # else: another process won the race
                console.warn(f"stage not cached: {error}")


def _discard(entry: Path) -> None:
    """Removes an entry in one step, so no reader meets it half removed."""
    grave = Path(tempfile.mkdtemp(dir=entry.parent, prefix=".discarded-"))
    try:
        os.rename(entry, grave / entry.name)
    except OSError:  # another process was faster
        pass
    shutil.rmtree(grave, ignore_errors=True)
