"""How lanes of a program run: side by side or one after the other; on one device or on several."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from rlhf_jax.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """How lanes are laid out in a program."""

    strategy: str  # map: one after the other; vmap: side by side
    lanes: int
    shared: bool  # what lanes only read has no axis of lanes
    rows: int  # updates a call runs at most


def lane(tree: Any, index: int | Array) -> Any:
    """One lane of a tree."""
    return jax.tree.map(lambda x: x[index], tree)


def over(
    layout: Layout, f: Callable[..., Any], *, in_place: bool = False
) -> Callable[[Any, Any, Any], Any]:
    """`f(lane, shared, common)` over a tree of lanes, over several devices where there are.

    `common` is the same for all lanes, and so is `shared` where the layout says so.

    Args:
      in_place: lanes are pairs `(state, rest)` and `f` gives `(state, found)`. Mapped lanes then
        overwrite their state; with states donated by the caller, memory holds one of each lane
        instead of two. Lanes side by side are not affected.

    >>> layout = Layout(strategy="map", lanes=2, shared=True, rows=1)
    >>> f = over(layout, lambda lane, shared, common: lane * shared + common)
    >>> f(jnp.array([1.0, 2.0]), jnp.float32(3.0), jnp.float32(0.5)).tolist()
    [3.5, 6.5]
    """
    mapped = map_in_place if in_place else map_apart

    def on_lanes(lanes: Any, shared: Any, common: Any) -> Any:
        if layout.shared:  # None has no leaves, so there is nothing to map over
            call, own = lambda one, _: f(one, shared, common), None
        else:
            call, own = lambda one, own: f(one, own, common), shared
        if layout.strategy == "vmap":
            return jax.vmap(call)(lanes, own)
        return mapped(call, lanes, own)

    if devices_of(layout) == 1:
        return on_lanes
    split, whole = PartitionSpec("lanes"), PartitionSpec()
    mesh = Mesh(np.array(jax.devices()), ("lanes",))
    specs = (split, whole if layout.shared else split, whole)
    return jax.shard_map(on_lanes, mesh=mesh, in_specs=specs, out_specs=split, check_vma=False)


def map_apart(call: Callable[..., Any], lanes: Any, own: Any) -> Any:
    """One lane after the other."""
    return lax.map(lambda both: call(*both), (lanes, own))


def map_in_place(call: Callable[..., Any], lanes: tuple[Any, Any], own: Any) -> tuple[Any, Any]:
    """One lane after the other, the new states where the old ones were."""
    states, rest = lanes

    def body(states: Any, at: tuple[Array, Any, Any]) -> tuple[Any, Any]:
        i, rest, own = at
        state, found = call((lane(states, i), rest), own)
        put = lambda whole, one: lax.dynamic_update_index_in_dim(whole, one, i, axis=0)
        return jax.tree.map(put, states, state), found

    count = len(jax.tree.leaves(states)[0])  # those of this device
    return lax.scan(body, states, (jnp.arange(count), rest, own))


def devices_of(layout: Layout) -> int:
    """Devices the lanes are split over; one where they cannot be split evenly."""
    return jax.device_count() if layout.lanes % jax.device_count() == 0 else 1
