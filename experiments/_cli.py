"""What every entry point shares: schemas, the start of a program, and its end in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments._errors import check_choices, check_keys, one_line
from experiments._resume import MULTIRUN, check_free, resumed, settings_files
from experiments._schemas import GROUPS, register_schemas
from rlhf_jax.config import ConfigError, UserError


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
