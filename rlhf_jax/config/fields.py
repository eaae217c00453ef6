"""How settings are declared: what is traced, which numbers and names are accepted.

A field made with `dynamic(...)` is a number used only in arithmetic: it enters the compiled
program as an argument, so runs that differ only in such fields share one program.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import field
from typing import Any, NamedTuple, TypeVar

C = TypeVar("C")


class UserError(Exception):
    """Something the user can mend: shown as one line, without a traceback."""


class ConfigError(UserError, ValueError):
    """A setting that cannot work: names the key, its value and what would be accepted."""

    def __init__(self, key: str, value: object, accepted: str):
        super().__init__(f"{key}={value!r}: {accepted}")


class Range(NamedTuple):
    """The finite numbers a setting may take, in words and as a test."""

    accepted: str
    holds: Callable[[float], bool]


POSITIVE = Range("must be above 0", lambda x: x > 0)
NOT_NEGATIVE = Range("must be 0 or above", lambda x: x >= 0)
SHARE = Range("must be between 0 and 1", lambda x: 0 <= x <= 1)
POSITIVE_SHARE = Range("must be above 0 and at most 1", lambda x: 0 < x <= 1)
BELOW_ONE = Range("must be in [0, 1)", lambda x: 0 <= x < 1)
BELOW_HALF = Range("must be in [0, 0.5)", lambda x: 0 <= x < 0.5)
INSIDE_ONE = Range("must be above 0 and below 1", lambda x: 0 < x < 1)
SEED = Range("must be 0 or above and below 2**32", lambda x: 0 <= x < 2**32)


def dynamic(default: float | None, allowed: Range) -> Any:
    """A traced number: changing it never recompiles; None where the annotation says so."""
    return field(default=default, metadata={"dynamic": True, "range": allowed})


def number(default: float | None, allowed: Range) -> Any:
    """A number that is compiled in, or none where the annotation says so."""
    return field(default=default, metadata={"range": allowed})


def choice(default: str, *others: str) -> Any:
    """A static choice among names."""
    return field(default=default, metadata={"choices": (default, *others)})


def is_dynamic(f: dataclasses.Field) -> bool:
    """Whether the field is traced."""
    return bool(f.metadata.get("dynamic"))


def split_dynamic(config: C) -> tuple[C, dict[str, Any]]:
    """Splits a config into a hashable static part and the nested dict of its traced numbers.

    >>> from rlhf_jax.config import SamplingConfig
    >>> static, hparams = split_dynamic(SamplingConfig(temperature=0.7))
    >>> static.temperature is None, hparams
    (True, {'temperature': 0.7})
    >>> merge_dynamic(static, hparams) == SamplingConfig(temperature=0.7)
    True
    """
    hparams: dict[str, Any] = {}
    blanks: dict[str, Any] = {}
    for f in dataclasses.fields(config):  # pyright: ignore[reportArgumentType]
        value = getattr(config, f.name)
        if is_dynamic(f):
            hparams[f.name], blanks[f.name] = value, None
        elif dataclasses.is_dataclass(value):
            blanks[f.name], inner = split_dynamic(value)
            if inner:
                hparams[f.name] = inner
    return dataclasses.replace(config, **blanks), hparams  # pyright: ignore[reportArgumentType]


def merge_dynamic(static: C, hparams: dict[str, Any]) -> C:
    """Puts traced numbers back where `split_dynamic` took them; used inside compiled steps."""
    values = {
        k: merge_dynamic(getattr(static, k), v) if isinstance(v, dict) else v
        for k, v in hparams.items()
    }
    return dataclasses.replace(static, **values)  # pyright: ignore[reportArgumentType]
