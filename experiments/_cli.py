"""What every entry point shares: schemas, the start of a program, and its end in one line."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments._errors import check_choices, check_keys, one_line
from experiments._resume import MULTIRUN, check_free, resumed, settings_files
from rlhf_jax import config as schemas
from rlhf_jax.config import ConfigError, UserError

SCHEMAS = {
    ("algo", "base_policy_gradient"): schemas.PolicyGradientConfig,
    ("algo", "base_preference"): schemas.PreferenceConfig,
    ("algo", "base_online_dpo"): schemas.OnlineDPOConfig,
    ("algo", "base_best_of_n"): schemas.BestOfNConfig,
    ("algo", "base_rejection"): schemas.RejectionConfig,
    ("model", "base_model"): schemas.ModelConfig,
    ("optim", "base_optim"): schemas.OptimConfig,
    ("sink", "base_sink"): schemas.SinkConfig,
    ("task", "base_reviews"): schemas.ReviewsConfig,
    ("task", "base_imdb"): schemas.ImdbConfig,
    ("task", "base_jsonl"): schemas.JsonlConfig,
}
GROUPS = {group for group, _ in SCHEMAS}


def register_schemas(**primary: type) -> None:
    """Makes the schemas known to Hydra; `primary` names those of whole programs."""
    store = ConfigStore.instance()
    for (group, name), node in SCHEMAS.items():
        store.store(group=group, name=name, node=thawed(node))
    for name, node in primary.items():
        store.store(name=name, node=open_to_choice(thawed(node)))


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


def open_to_choice(node: DictConfig) -> DictConfig:
    """The schema of a program without the kind of algorithm that is its default in Python.

    Composing may then put any other kind in its place.
    """
    if "algo" in node:
        node.algo = thawed(schemas.AlgoConfig)
    return node


def kind_of(stored: DictConfig) -> type:
    """The kind of algorithm that stored settings are of: the one that has all of them."""
    kinds = [schema for (group, _), schema in SCHEMAS.items() if group == "algo"]
    fits = lambda kind: set(stored) <= {f.name for f in dataclasses.fields(kind)}
    return next(filter(fits, kinds), schemas.AlgoConfig)


def launch(
    program: Callable[[Any, Path], None], config_name: str, schema: type, *, resumable: bool = False
) -> None:
    """Composes the settings, calls `program(config, run_dir)` and shows errors as one line.

    Args:
      resumable: the program fills a directory of its own, which `resume=DIR` goes on with.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach `one_line`
    register_schemas(**{f"base_{config_name}": schema})
    failures: list[str] = []
    earlier: dict[Path, bytes] = {}  # the settings of the run that is resumed

    def task(config: DictConfig) -> None:
        job = HydraConfig.get()
        output_dir = Path(job.runtime.output_dir)
        try:
            check_keys(config)
            program(OmegaConf.to_object(config), output_dir)
        except (UserError, OmegaConfBaseException) as error:  # Hydra would print a line of its own
            label = f"{os.path.relpath(output_dir)}: " if job.mode == RunMode.MULTIRUN else ""
            failures.append(label + one_line(error, sys.argv[1:]))
            if isinstance(error, ConfigError):  # a refused change is not part of the run
                for path, data in earlier.items():
                    path.write_bytes(data)

    main = hydra.main(version_base="1.3", config_path="../configs", config_name=config_name)
    try:
        sys.argv[1:] = sorted(sys.argv[1:], key=MULTIRUN.__contains__)  # argparse wants it so
        check_choices(sys.argv[1:], GROUPS)
        if resumable:
            check_free(sys.argv[1:])
            earlier |= settings_files(sys.argv[1:])
            sys.argv[1:] = resumed(sys.argv[1:], GROUPS)
        main(task)()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        failures.append(one_line(error, sys.argv[1:]))
    except KeyboardInterrupt:
        failures.append("interrupted")
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        failures.append(f"{error.filename}: {error.strerror}")
    finally:  # of an error of another kind too: other jobs may have failed before it
        for failure in failures:
            print(f"error: {failure}", file=sys.stderr)
    if failures:
        sys.exit(2)
