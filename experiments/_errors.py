"""Hydra's and OmegaConf's errors in the form `key=value: what would be accepted`."""

from __future__ import annotations

import dataclasses
import difflib
import re
import shlex
import typing
from collections.abc import Collection, Iterator, Sequence

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    OmegaConfBaseException,
    ValidationError,
)

from experiments._overrides import key_of, literal, split, typed_value, value_of
from experiments._schemas import names_of
from rlhf_jax.config import ConfigError, UserError

TYPES = {int: "an int", float: "a float", bool: "true or false", str: "text"}
PLUGINS = {  # of Hydra: the extra that installs them
    "hydra/sweeper=optuna": "optuna",
    "hydra/launcher=submitit_local": "submitit",
    "hydra/launcher=submitit_slurm": "submitit",
    "hydra/launcher=ray": "ray",
}
HYDRA = {  # how its messages name the key: what is accepted
    r"Ambiguous value for argument '([^=']+)=": "one value; quote it, or add -m for a run of each",
    r"Multiple values for ([^\s.]+)\.": "chosen twice; give it once, without +",
    r"An item is already at '([^']+)'": "this setting exists; leave out the +",
}


def one_line(error: BaseException, arguments: Sequence[str]) -> str:
    """An error of the user as one line; `arguments` tell the value that was typed."""
    if isinstance(error, UserError):
        return str(error)
    for part in chain(error):
        if isinstance(part, OverrideParseException):
            return unreadable(part.override)
        if isinstance(part, MissingConfigException) and part.options is not None:
            group, _, name = str(part.missing_cfg_file).rpartition("/")
            if f"{group}={name}" in PLUGINS:
                extra = PLUGINS[f"{group}={name}"]
                return f"{group}={name}: not installed; pip install 'rlhf_jax[{extra}]'"
            return f"{group}={name}: must be one of {', '.join(shown(part.options))}"
    causes = [e for e in chain(error) if isinstance(e, OmegaConfBaseException) and e.full_key]
    if causes:
        return described(str(causes[-1].full_key), accepted(causes[-1]), arguments)
    for pattern, wanted in HYDRA.items():
        if found := re.search(pattern, str(error)):
            return described(found[1], wanted, arguments)
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def described(key: str, wanted: str, arguments: Sequence[str]) -> str:
    """`key=value: wanted`, with the value that was typed if there is one."""
    try:
        return str(ConfigError(key, typed_value(key, arguments), wanted))
    except KeyError:
        return f"{key}: {wanted}"


def unreadable(argument: str) -> str:
    """An argument that is not in Hydra's grammar."""
    key, equals, value = argument.partition("=")
    if not equals:
        return f"{argument}: give it as key=value"
    remedy = literal(value)
    remedy = shlex.quote(remedy) if set(remedy) & set('"$`\\!') else f'"{remedy}"'
    return f"{argument}: cannot be read; quote the value: {key}={remedy}"


def shown(options: Sequence[str]) -> list[str]:
    """Config names without the schemas."""
    return sorted(o for o in options if not o.startswith("base_"))


def accepted(error: OmegaConfBaseException) -> str:
    """What OmegaConf would have accepted."""
    reason = str(error.msg or error).splitlines()[0]
    parent, _, name = str(error.full_key).rpartition(".")
    owner = error.object_type
    if not dataclasses.is_dataclass(owner):
        return reason
    if isinstance(error, ConfigAttributeError | ConfigKeyError):
        return unknown(parent, name, owner)
    if "does not support deletion" in reason:
        return "cannot be removed; give it a value"
    kind = typing.get_type_hints(owner).get(name)
    return type_name(kind) if isinstance(error, ValidationError) and kind else reason


def unknown(parent: str, name: str, owner: object) -> str:
    """The settings there are beside one that there is not."""
    names = [f.name for f in dataclasses.fields(owner)]  # pyright: ignore[reportArgumentType]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {'.'.join(filter(None, (parent, close[0])))}? " if close else ""
    return f"unknown key; {hint}accepted: {', '.join(names)}"


def type_name(kind: object) -> str:
    """What must be given for a field of a type.

    >>> type_name(bool), type_name(typing.Optional[int])
    ('must be true or false', 'must be an int or null')
    """
    if dataclasses.is_dataclass(kind):
        names = ", ".join(f.name for f in dataclasses.fields(kind))
        return f"a group of settings; give one of them: {names}"
    names = [TYPES.get(k, "null") for k in typing.get_args(kind) or (kind,)]
    return f"must be {' or '.join(names)}"


def check_keys(node: DictConfig, parent: str = "") -> None:
    """Refuses what `+key=value` added to a schema.

    Raises:
      ConfigError: for the first such key.
    """
    owner = OmegaConf.get_type(node)
    for name in map(str, node):
        child = node._get_node(name)
        if dataclasses.is_dataclass(owner) and name not in {
            f.name for f in dataclasses.fields(owner)
        }:
            key = ".".join(filter(None, (parent, name)))
            value = OmegaConf.to_container(node, resolve=False)[name]  # pyright: ignore
            raise ConfigError(key, value, unknown(parent, name, owner))
        if isinstance(child, DictConfig) and not child._is_none():
            check_keys(child, ".".join(filter(None, (parent, name))))


def check_choices(arguments: Sequence[str], groups: Collection[str]) -> None:
    """Refuses `group=null`, which Hydra answers with a traceback, and the names of schemas."""
    for argument in split(arguments)[0]:
        group = key_of(argument)
        if group not in groups or "=" not in argument:
            continue
        name = value_of(argument)
        if name is None and group in ("experiment", "study"):
            continue
        if name is None or str(name).startswith("base_"):
            raise ConfigError(group, name, f"must be one of {', '.join(names_of(group))}")
    chosen = {key_of(a): value_of(a) for a in split(arguments)[0]}
    preset, algo = chosen.get("preset", "none"), str(chosen.get("algo", "ppo"))
    if preset != "none" and {name.strip() for name in algo.split(",")} != {"ppo"}:
        raise ConfigError("preset", preset, f"presets are for algo=ppo; leave out algo={algo}")
