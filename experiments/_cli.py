"""What every entry point shares: schemas, resuming, and errors as one line."""

from __future__ import annotations

import dataclasses
import difflib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlhf_jax import config as schemas
from rlhf_jax.config import ConfigError, UserError

SCHEMAS = {
    ("algo", "base_ppo"): schemas.PPOConfig,
    ("model", "base_model"): schemas.ModelConfig,
    ("optim", "base_optim"): schemas.OptimConfig,
    ("sink", "base_sink"): schemas.SinkConfig,
    ("task", "base_reviews"): schemas.ReviewsConfig,
    ("task", "base_imdb"): schemas.ImdbConfig,
    ("task", "base_jsonl"): schemas.JsonlConfig,
}


def register_schemas(**primary: type) -> None:
    """Makes the schemas known to Hydra; `primary` names those of whole programs."""
    store = ConfigStore.instance()
    for (group, name), node in SCHEMAS.items():
        store.store(group=group, name=name, node=thawed(node))
    for name, node in primary.items():
        store.store(name=name, node=thawed(node))


def thawed(schema: type) -> DictConfig:
    """The schema of a frozen dataclass; composing must still be able to write to it."""
    node = OmegaConf.structured(schema)

    def thaw(part: DictConfig) -> None:
        OmegaConf.set_readonly(part, None)
        for key in part:
            child = part._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                thaw(child)

    thaw(node)
    return node


def launch(program: Callable[[Any, Path], None], config_name: str, schema: type) -> None:
    """Composes the settings, calls `program(config, run_dir)` and shows errors as one line."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach `one_line`
    register_schemas(**{f"base_{config_name}": schema})

    failures: list[str] = []

    def task(config: DictConfig) -> None:
        try:
            program(OmegaConf.to_object(config), Path(HydraConfig.get().runtime.output_dir))
        except UserError as error:  # inside, or Hydra would print a line of its own
            failures.append(str(error))

    main = hydra.main(version_base="1.3", config_path="../configs", config_name=config_name)
    try:
        sys.argv[1:] = resumed(sys.argv[1:])
        main(task)()
        if failures:
            fail(failures[0])
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted")
    except (HydraException, OmegaConfBaseException) as error:
        fail(one_line(error))


def fail(message: str) -> None:
    """Ends the program with one line."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def resumed(arguments: list[str]) -> list[str]:
    """With `resume=DIR`, the overrides DIR was started with, and DIR as the run directory."""
    found = [a.split("=", 1)[1] for a in arguments if a.startswith("resume=")]
    if not found or found[-1] in ("", "null"):
        return arguments
    saved = Path(found[-1]) / ".hydra" / "overrides.yaml"
    if not saved.exists():
        raise ConfigError("resume", found[-1], "not a run directory (no .hydra/overrides.yaml)")
    earlier = [str(o) for o in OmegaConf.load(saved) if not str(o).startswith("resume=")]
    return [*earlier, *arguments, f"hydra.run.dir={found[-1]}"]


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def one_line(error: BaseException) -> str:
    """Hydra's and OmegaConf's errors in the form `key=value: what would be accepted`."""
    for part in chain(error):
        if isinstance(part, MissingConfigException) and part.options is not None:
            group, _, name = str(part.missing_cfg_file).rpartition("/")
            return f"{group}={name}: must be one of {', '.join(sorted(shown(part.options)))}"
    causes = [e for e in chain(error) if isinstance(e, OmegaConfBaseException) and e.full_key]
    if causes:
        return key_error(causes[-1])
    return " ".join(line.strip() for line in str(error).splitlines() if line.strip())


def shown(options: Sequence[str]) -> list[str]:
    """Config names without the schemas."""
    return [o for o in options if not o.startswith("base_")]


def key_error(error: OmegaConfBaseException) -> str:
    """An unknown key or a value of the wrong type."""
    key, reason = str(error.full_key), str(error.msg or error).splitlines()[0]
    parent, _, name = key.rpartition(".")
    owner = error.object_type
    if "not in" not in reason or not dataclasses.is_dataclass(owner):
        return f"{key}: {reason}"
    names = [f.name for f in dataclasses.fields(owner)]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {'.'.join(filter(None, (parent, close[0])))}? " if close else ""
    return f"{key}: unknown key; {hint}accepted: {', '.join(names)}"
