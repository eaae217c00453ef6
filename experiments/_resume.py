"""Directories of runs: one that is taken, one that is gone on with, and its settings."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments._overrides import key_of, last, overrides_of, split, value_of
from experiments._schemas import SCHEMAS, algo_of
from rlhf_jax.config import ConfigError
from rlhf_jax.io.run_dir import RunDir
from rlhf_jax.sweep.executors import EXECUTORS

TASKS = tuple(sorted(kind.name for (group, _), kind in SCHEMAS.items() if group == "task"))
MULTIRUN = {"-m", "--multirun"}
# What a sweep may be gone on with: how it is run, not what it computes.
HOW = re.compile(
    r"(sweep\.(?!objective\b)|run\.(?!matmul_precision\b)|hydra/launcher=|hydra\.launcher\.)"
)


def check_free(arguments: Sequence[str]) -> None:
    """Refuses a directory that holds a run, before Hydra writes the settings of this one there."""
    _, flags = split(arguments)
    if set(flags) - MULTIRUN or last("resume", arguments) is not None:
        return
    folder = last("hydra.sweep.dir", arguments)  # some experiments are sweeps without -m, too
    if folder is not None and holds_runs(Path(folder)):
        accepted = f"already holds runs; go on with -m resume={folder}, or choose another"
        raise ConfigError("hydra.sweep.dir", folder, accepted)
    folder = last("hydra.run.dir", arguments)
    if not flags and folder is not None and RunDir(folder).metrics.exists():
        accepted = f"already holds a run; go on with it by resume={folder}, or choose another"
        raise ConfigError("hydra.run.dir", folder, accepted)


def holds_runs(folder: Path) -> bool:
    """Whether a sweep was begun in a directory."""
    return (folder / "multirun.yaml").exists() or any(folder.glob("*/metrics.jsonl"))


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
    if (Path(run) / "multirun.yaml").is_file():
        raise ConfigError("resume", run, "is a sweep; go on with it by -m resume=DIR")
    config = stored_config("resume", run)
    chosen = {key_of(a): value_of(a) for a in overrides if key_of(a) in groups}
    for group in {"task", "algo"} & config.keys():
        name = config[group].name
        if chosen.pop(group, name) != name:
            raise ConfigError(group, last(group, overrides), f"{run} is a run of {group}={name}")
    for group in {"preset", "experiment"} & chosen.keys():
        accepted = "a resumed run keeps the settings it has; leave it out"
        raise ConfigError(group, chosen[group], accepted)
    settings = OmegaConf.to_container(config, resolve=False)
    assert isinstance(settings, dict)
    kept = {k: v for k, v in settings.items() if k != "resume" and k not in chosen}
    given = ("task", "algo", "resume", "hydra.run.dir")
    further = [a for a in overrides if key_of(a) not in given]
    folder = overrides_of({"resume": run, "hydra.run.dir": run})
    kinds = [f"task={config.task.name}"]
    kinds += [f"algo={algo_of(config.algo)[0]}"] if "algo" in config else []
    return [*kinds, *overrides_of(kept), *further, *folder, *flags]


def resumed_sweep(arguments: list[str]) -> tuple[list[str], Path | None]:
    """With `-m resume=DIR`, what the sweep in DIR was started with, and DIR.

    The jobs keep their numbers and directories; those with a summary.json are not run again.

    Raises:
      ConfigError: DIR is no sweep, or something else is to change than how it is run.
    """
    run = last("resume", arguments)
    overrides, flags = split(arguments)
    if run is None or not set(flags) & MULTIRUN:
        return arguments, None
    typed = begun_with(run)
    further = [a for a in overrides if key_of(a) not in ("resume", "hydra.sweep.dir")]
    for argument in further:
        if not HOW.match(argument):
            accepted = f"{run} keeps its settings; only sweep.*, run.* and the launcher may change"
            raise ConfigError(key_of(argument), value_of(argument), accepted)
    launcher = last("hydra/launcher", [*typed, *further])
    if launcher not in (None, "lanes", *EXECUTORS):
        accepted = (
            f"cannot go on with a sweep; add hydra/launcher=lanes or one of {', '.join(EXECUTORS)}"
        )
        raise ConfigError("hydra/launcher", launcher, accepted)
    again = {*map(key_of, further), "resume", "hydra.sweep.dir", "hydra.mode"}
    kept = [a for a in typed if key_of(a) not in again]
    return [*kept, *further, *overrides_of({"hydra.sweep.dir": run}), *flags], Path(run)


def begun_with(run: str) -> list[str]:
    """The overrides a sweep was started with."""
    path = Path(run) / "multirun.yaml"
    if (Path(run) / ".hydra" / "config.yaml").is_file():
        raise ConfigError("resume", run, "goes on with one run; leave out -m")
    if not path.is_file():
        raise ConfigError("resume", run, "not the directory of a sweep (no multirun.yaml)")
    try:
        found = OmegaConf.select(OmegaConf.load(path), "hydra.overrides")
        return [*map(str, found.task), *map(str, found.hydra)]
    except (OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError, TypeError):
        raise ConfigError("resume", run, "its multirun.yaml cannot be read") from None


def settings_files(arguments: Sequence[str]) -> dict[Path, bytes]:
    """What Hydra will overwrite of the run or the sweep that is resumed."""
    run = last("resume", arguments)
    names = [] if run is None else [*Path(run).glob(".hydra/*.yaml"), Path(run) / "multirun.yaml"]
    return {path: path.read_bytes() for path in names if path.is_file()}


def stored_config(key: str, run: str) -> DictConfig:
    """The settings a run directory was made with; `key` is the setting that named it."""
    if not (Path(run) / ".hydra" / "config.yaml").is_file():
        is_sweep = (Path(run) / "multirun.yaml").is_file()
        what = f"is a sweep; give one of its runs, such as {Path(run) / '0'}"
        accepted = what if is_sweep else "not a run directory (no .hydra/config.yaml)"
        raise ConfigError(key, run, accepted)
    try:
        config = OmegaConf.load(Path(run) / ".hydra" / "config.yaml")
        name = OmegaConf.select(config, "task.name")
    except (OmegaConfBaseException, yaml.YAMLError, OSError, UnicodeDecodeError):
        raise ConfigError(key, run, "its .hydra/config.yaml cannot be read") from None
    if isinstance(config, DictConfig) and "env" in config:
        raise ConfigError(key, run, "is a run of experiments.ppo; give one of experiments.rlhf")
    if not isinstance(config, DictConfig) or name not in TASKS:
        wanted = f"its .hydra/config.yaml has task.name={name}, not one of {', '.join(TASKS)}"
        raise ConfigError(key, run, wanted)
    return config
