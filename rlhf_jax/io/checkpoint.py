"""Training states on disk (orbax), to resume from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from rlhf_jax.io.params import CheckpointError, nested
from rlhf_jax.io.run_dir import finite

S = TypeVar("S")


class CheckpointStore:
    """Numbered training states in one directory; what a kill left half written is not seen.

    Args:
      directory: where to; made when missing.
      keep: how many of the newest stay.
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 2):
        self.directory = Path(directory).absolute()
        # Synchronous: our states are small, and a donated buffer may not outlive the call.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, step: int, state: Any, metadata: Mapping[str, Any] | None = None) -> None:
        """Writes `state` as checkpoint `step`; on disk when it returns.

        Args:
          step: number of finished updates; one already saved is left as it is.
          state: any pytree of arrays, typed keys and numbers.
          metadata: plain values, given back by `restore`.
        """
        if step in self._manager.all_steps():
            return
        plain, _ = finite(metadata or {})
        arrays = nested({name: _to_numpy(leaf) for name, leaf in _named_leaves(state)})
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(arrays),  # pyright: ignore[reportCallIssue]
            metadata=ocp.args.JsonSave(plain),  # pyright: ignore[reportCallIssue]
        )
        self._manager.save(step, args=args, force=True)

    def latest(self) -> int | None:
        """The newest whole checkpoint, None if there is none."""
        return self._manager.latest_step()

    def restore(self, step: int, like: S) -> tuple[S, dict[str, Any]]:
        """Reads checkpoint `step` into the shape of `like`.

        Args:
          step: one that `save` was given.
          like: a state of the same structure, such as a freshly initialised one.

        Returns:
          The state, of the same types as `like`, and the metadata.

        Raises:
          CheckpointError: no such step, or a leaf is missing or of another shape or dtype.
        """
        if step not in self._manager.all_steps():
            raise CheckpointError(f"{self.directory}: no checkpoint {step}")
        args = ocp.args.Composite(state=ocp.args.StandardRestore(), metadata=ocp.args.JsonRestore())
        stored = self._manager.restore(step, args=args)
        where = f"{self.directory / str(step)}"
        return _fill(like, stored["state"], where), dict(stored["metadata"])

    def close(self) -> None:
        """Releases the directory."""
        self._manager.close()


def _named_leaves(tree: Any) -> list[tuple[tuple[str, ...], Any]]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(tuple(_part(entry) for entry in path), leaf) for path, leaf in leaves]


def _part(entry: Any) -> str:
    return jax.tree_util.keystr((entry,), simple=True)


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _to_numpy(leaf: Any) -> np.ndarray:
    return np.asarray(jax.random.key_data(leaf) if _is_key(leaf) else leaf)


def _fill(like: S, stored: Mapping[str, Any], where: str) -> S:
    """`like` with its leaves replaced by those of the same names in `stored`."""
    leaves = []
    for path, old in _named_leaves(like):
        name = "/".join(path)
        new = _find(stored, path)
        if new is None:
            raise CheckpointError(f"{where}: {name} is missing from the checkpoint")
        _check(old, new, f"{where}: {name}")
        leaves.append(_cast(old, new))
    return jax.tree_util.tree_unflatten(jax.tree_util.tree_structure(like), leaves)


def _find(stored: Any, path: tuple[str, ...]) -> np.ndarray | None:
    for part in path:
        if not isinstance(stored, Mapping) or part not in stored:
            return None
        stored = stored[part]
    return None if isinstance(stored, Mapping) else np.asarray(stored)


def _check(old: Any, new: np.ndarray, where: str) -> None:
    wanted = jax.eval_shape(jax.random.key_data, old) if _is_key(old) else old
    if not hasattr(wanted, "dtype"):
        wanted = np.asarray(wanted)
    if (new.shape, new.dtype) != (wanted.shape, wanted.dtype):
        ours = f"{wanted.dtype}{list(wanted.shape)}"
        raise CheckpointError(f"{where} is {new.dtype}{list(new.shape)}, this run wants {ours}")


def _cast(old: Any, new: np.ndarray) -> Any:
    """`new` as what `old` is: a typed key, an array on its devices, or a plain number."""
    if _is_key(old):
        return jax.random.wrap_key_data(jnp.array(new), impl=jax.random.key_impl(old))
    if isinstance(old, jax.Array) and old.committed:
        return jax.device_put(new, old.sharding)
    if isinstance(old, jax.Array | jax.ShapeDtypeStruct):
        return jnp.array(new)  # a copy: the caller may donate it
    return new if isinstance(old, np.ndarray) else new.item()
