"""One set of parameters in one safetensors file: cached stages, final policies."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from rlhf_jax.config import UserError
from rlhf_jax.io.atomic import replacing
from rlhf_jax.io.run_dir import finite
from rlhf_jax.types import Params

Keys = tuple[str | int, ...]


class CheckpointError(UserError, ValueError):
    """A checkpoint that cannot be read as asked: one line naming the file and the leaf."""


def save_params(
    path: str | os.PathLike[str], params: Params, metadata: Mapping[str, Any] | None = None
) -> None:
    """Writes a nested dict of arrays to one file; a reader sees the old file or the new one.

    Args:
      path: the file, by custom `*.safetensors`.
      params: nested dict of arrays; keys are strings or ints.
      metadata: plain values, given back by `load_params`.

    Raises:
      CheckpointError: two parameters have the same dotted name.
    """
    path = Path(path)
    flat = flatten(params)
    arrays = {_dotted(keys): _contiguous(leaf) for keys, leaf in flat.items() if leaf is not None}
    if len(arrays) != sum(leaf is not None for leaf in flat.values()):
        raise CheckpointError(f"{path}: two parameters have the same dotted name")
    # The paths keep what dotted names lose: number keys and empty dicts.
    paths = [[list(keys), leaf is not None] for keys, leaf in flat.items()]
    header = {"metadata": json.dumps(finite(metadata or {})[0]), "paths": json.dumps(paths)}
    with replacing(path) as temporary:
        save_file(arrays, temporary, metadata=header)


def load_params(path: str | os.PathLike[str]) -> tuple[Params, dict[str, Any]]:
    """Reads what `save_params` wrote: the nested dict of arrays and the metadata.

    Raises:
      CheckpointError: no such file, cut short, or not written by `save_params`.
    """
    try:
        with safe_open(os.fspath(path), "numpy") as file:
            header = file.metadata()
            paths = [(tuple(keys), full) for keys, full in json.loads(header["paths"])]
            flat = {k: jnp.array(file.get_tensor(_dotted(k))) if full else {} for k, full in paths}
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except (SafetensorError, OSError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not a whole parameter file ({error})") from None
    return nested(flat), json.loads(header["metadata"])


def flatten(tree: Mapping[Any, Any], prefix: Keys = ()) -> dict[Keys, Any]:
    """Leaves by path; an empty dict counts as a leaf None.

    >>> flatten({"a": {"b": 1}, "c": {}})
    {('a', 'b'): 1, ('c',): None}
    """
    flat: dict[Keys, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, (*prefix, key)) if value else {(*prefix, key): None}
        else:
            flat[*prefix, key] = value
    return flat


def nested(flat: Mapping[tuple[Any, ...], Any]) -> dict[Any, Any]:
    """The tree whose leaves stand at the given paths.

    >>> nested({("a", "b"): 1, ("c",): 2})
    {'a': {'b': 1}, 'c': 2}
    """
    tree: dict[Any, Any] = {}
    for path, leaf in flat.items():
        node = tree
        for part in path[:-1]:
            node = node.setdefault(part, {})
        node[path[-1]] = leaf
    return tree


def _dotted(keys: Keys) -> str:
    return ".".join(str(key) for key in keys)


def _contiguous(leaf: Any) -> np.ndarray:
    # safetensors writes the buffer as it lies, so a transposed view would come back scrambled.
    return np.array(leaf, order="C")
