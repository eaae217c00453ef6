"""Directories of runs: one that is taken, one that is gone on with, and its settings."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments._overrides import key_of, last, overrides_of, split, value_of
from experiments._schemas import SCHEMAS, algo_of
from rlhf_jax.config import ConfigError
from rlhf_jax.io.run_dir import RunDir

TASKS = tuple(sorted(kind.name for (group, _), kind in SCHEMAS.items() if group == "task"))
MULTIRUN = {"-m", "--multirun"}


def check_free(arguments: Sequence[str]) -> None:
    """Refuses a directory that holds a run, before Hydra writes the settings of this one there."""
    _, flags = split(arguments)
    if set(flags) - MULTIRUN or last("resume", arguments) is not None:
        return
    if not flags:
        folder = last("hydra.run.dir", arguments)
        if folder is not None and RunDir(folder).metrics.exists():
            accepted = f"already holds a run; go on with it by resume={folder}, or choose another"
            raise ConfigError("hydra.run.dir", folder, accepted)
    else:
        folder = last("hydra.sweep.dir", arguments)
        if folder is not None and any(Path(folder).glob("*/metrics.jsonl")):
            raise ConfigError("hydra.sweep.dir", folder, "already holds runs; choose another")


def resumed(arguments: list[str], groups: Collection[str]) -> list[str]:
    """With `resume=DIR`, the settings DIR was started with, and DIR as the run directory.

    All settings are given, not only those that were typed: the defaults may have changed since.

    Args:
      groups: config groups; one that is chosen anew loses its stored settings.
    """
    run = last("resume", arguments)
    if run is None:
        return arguments
    overrides, flags = split(arguments)
    if set(flags) & MULTIRUN:
        raise ConfigError("resume", run, "goes on with one run; leave out -m")
    config = stored_config("resume", run)
    chosen = {key_of(a): value_of(a) for a in overrides if key_of(a) in groups}
    for group in {"task", "algo"} & config.keys():
        name = config[group].name
        if chosen.pop(group, name) != name:
            raise ConfigError(group, last(group, overrides), f"{run} is a run of {group}={name}")
    if "preset" in chosen:
        accepted = "a resumed run keeps the settings it has; leave it out"
        raise ConfigError("preset", chosen["preset"], accepted)
    settings = OmegaConf.to_container(config, resolve=False)
    assert isinstance(settings, dict)
    kept = {k: v for k, v in settings.items() if k != "resume" and k not in chosen}
    given = ("task", "algo", "resume", "hydra.run.dir")
    further = [a for a in overrides if key_of(a) not in given]
    folder = overrides_of({"resume": run, "hydra.run.dir": run})
    kinds = [f"task={config.task.name}"]
    kinds += [f"algo={algo_of(config.algo)[0]}"] if "algo" in config else []
    return [*kinds, *overrides_of(kept), *further, *folder, *flags]


def settings_files(arguments: Sequence[str]) -> dict[Path, bytes]:
    """What Hydra will overwrite of the run that is resumed."""
    run = last("resume", arguments)
    return {} if run is None else {p: p.read_bytes() for p in Path(run).glob(".hydra/*.yaml")}


def stored_config(key: str, run: str) -> DictConfig:
    """The settings a run directory was made with; `key` is the setting that named it."""
    if not (Path(run) / ".hydra" / "config.yaml").is_file():
        raise ConfigError(key, run, "not a run directory (no .hydra/config.yaml)")
    try:
        config = OmegaConf.load(Path(run) / ".hydra" / "config.yaml")
        name = OmegaConf.select(config, "task.name")
    except (OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError):
        raise ConfigError(key, run, "its .hydra/config.yaml cannot be read") from None
    if not isinstance(config, DictConfig) or name not in TASKS:
        wanted = f"its .hydra/config.yaml has task.name={name}, not one of {', '.join(TASKS)}"
        raise ConfigError(key, run, wanted)
    return config
