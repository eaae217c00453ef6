"""A user's own reward: any Python callable from a list of texts to a list of numbers."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rlhf_jax.config import ConfigError, UserError

RewardFn = Callable[[list[str]], Sequence[float]]
_SHOWN = 200  # characters of an offending text


class RewardError(UserError):
    """A reward function that failed or did not return one finite number a text."""


def load_reward(spec: str) -> RewardFn:
    """Imports `package.module:function`; the working directory is importable.

    Raises: ConfigError naming `task.reward` and the part that is wrong.

    >>> load_reward("math")
    Traceback (most recent call last):
    ...
    rlhf_jax.config.fields.ConfigError: task.reward='math': package.module:function, with one colon
    """
    module_name, colon, path = spec.partition(":")
    if not (module_name and colon and path) or ":" in path:
        raise ConfigError("task.reward", spec, "package.module:function, with one colon")
    found: Any = _import(module_name, spec)
    for name in path.split("."):
        if not hasattr(found, name):
            raise ConfigError("task.reward", spec, f"{module_name} has no attribute {path!r}")
        found = getattr(found, name)
    if not callable(found):
        wanted = f"{path!r} is a {type(found).__name__}, not a function of a list of texts"
        raise ConfigError("task.reward", spec, wanted)
    return found  # pyright: ignore[reportReturnType]


def _import(module_name: str, spec: str) -> object:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()  # the module may have been written a moment ago
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        problem = f"cannot import {module_name!r} ({type(error).__name__}: {error})"
        wanted = f"{problem}; give package.module:function, importable from {os.getcwd()}"
        raise ConfigError("task.reward", spec, wanted) from error


def score_texts(fn: RewardFn, texts: Sequence[str]) -> np.ndarray:
    """The reward of every text, float32 [B].

    Raises: RewardError showing the first offending text and the value or the exception.

    >>> score_texts(lambda texts: [len(t) for t in texts], ["so good", ""]).tolist()
    [7.0, 0.0]
    """
    texts = list(texts)
    try:
        values = fn(list(texts))
    except Exception as error:
        raise RewardError(_blame(fn, texts, error)) from error
    if isinstance(values, str | dict) or not hasattr(values, "__len__"):
        wanted = f"a list of {len(texts)} numbers"
        raise RewardError(f"the reward returned a {type(values).__name__}; {wanted} is wanted")
    if len(values) != len(texts):
        first = f"; the first text is {_short(texts[0])}" if texts else ""
        raise RewardError(f"the reward returned {len(values)} values for {len(texts)} texts{first}")
    return np.array([_number(v, t) for v, t in zip(values, texts)], np.float32)


def _number(value: Any, text: str) -> float:
    """`value` as a float that stays finite in float32."""
    try:
        if isinstance(value, str):
            raise TypeError("text")
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        number = float("nan")
    if not abs(number) <= float(np.finfo(np.float32).max):
        shown = repr(value)[:_SHOWN]
        raise RewardError(f"the reward gave {shown}, not a finite number, for {_short(text)}")
    return number


def _blame(fn: RewardFn, texts: list[str], error: Exception) -> str:
    """Finds the text that breaks the function by asking for one at a time."""
    for text in texts:
        try:
            fn([text])
        except Exception as alone:
            return f"the reward raised {type(alone).__name__}: {alone}; on {_short(text)}"
    what = f"the reward raised {type(error).__name__}: {error}"
    return f"{what}; on a batch of {len(texts)} texts but on none alone"


def _short(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")
