"""Settings as they are typed: `key=value` in Hydra's grammar, read and written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overrides, and what is meant for Hydra's own command line.

    >>> split(["-m", "seed=1,2", "~sink", "--cfg", "job"])
    (['seed=1,2', '~sink'], ['-m', '--cfg', 'job'])
    """
    is_override = lambda a: not a.startswith("-") and ("=" in a or a.startswith("~"))
    overrides = [a for a in arguments if is_override(a)]
    return overrides, [a for a in arguments if not is_override(a)]


def key_of(argument: str) -> str:
    """The dotted key of an override.

    >>> key_of("+algo.kl_coef=0.1")
    'algo.kl_coef'
    """
    return argument.lstrip("+~").partition("=")[0].partition("@")[0]


def value_of(argument: str) -> Any:
    """The value of an override; its plain text where Hydra cannot read it or would sweep it.

    >>> value_of("a=1e-08"), value_of("a='1, 2'"), value_of("a=null"), value_of("a=1,2")
    (1e-08, '1, 2', None, '1,2')
    """
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return argument.partition("=")[2]
    return argument.partition("=")[2] if override.is_sweep_override() else override.value()


def typed_value(key: str, arguments: Sequence[str]) -> Any:
    """What was typed last for a key, perhaps inside the dict of a key above it.

    Raises:
      KeyError: nothing was.

    >>> typed_value("algo.foo", ["algo.foo=1", "algo={foo: 2}", "algo.bar=3"])
    2
    """
    for argument in reversed(arguments):
        name = key_of(argument)
        if "=" not in argument or not f"{key}.".startswith(f"{name}."):
            continue
        value = value_of(argument)
        for part in key[len(name) :].split(".")[1:]:
            if not isinstance(value, dict) or part not in value:
                break
            value = value[part]
        else:
            return value
    raise KeyError(key)


def last(key: str, arguments: Sequence[str]) -> str | None:
    """The text typed for a key; None without one.

    >>> last("resume", ["resume=null"]), last("resume", ["resume='my run'", "seed=1"])
    (None, 'my run')
    """
    found = [value_of(a) for a in arguments if a.startswith(f"{key}=")]
    return None if not found or found[-1] in (None, "") else str(found[-1])


def literal(value: Any) -> str:
    """A plain value as Hydra reads it back.

    >>> [literal(x) for x in (None, True, 3, 1e-8, "it's, so: 'good'", [1, "a"])]
    ['null', 'true', '3', '1e-08', "'it\\\\'s, so: \\\\'good\\\\''", "[1,'a']"]
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{','.join(map(literal, value))}]"
    return QuotedString(text=str(value), quote=Quote.single).with_quotes()


def overrides_of(settings: Mapping[Any, Any], prefix: str = "") -> Iterator[str]:
    """Every leaf of nested settings as an override.

    >>> list(overrides_of({"seed": 1, "sink": {"group": None}}))
    ['seed=1', 'sink.group=null']
    """
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from overrides_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={literal(value)}"
