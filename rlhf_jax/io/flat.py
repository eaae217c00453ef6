"""Settings by their dotted keys; reports read them, and so without jax."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings by their dotted keys.

    >>> flat({"algo": {"clip_eps": 0.2}, "seed": None})
    {'algo.clip_eps': 0.2, 'seed': None}
    """
    found: dict[str, Any] = {}
    for key, value in tree.items():
        inner = isinstance(value, Mapping) and value
        found |= flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return found
