"""What every entry point shares: schemas, the start of a program, and its end in one line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments._errors import check_choices, check_keys, one_line
from experiments._leftovers import begun, discard, ended, report
from experiments._overrides import key_of, last
from experiments._resume import MULTIRUN, check_free, resumed, resumed_sweep, settings_files
from experiments._schemas import GROUPS, register_schemas
from rlhf_jax.config import UserError
from rlhf_jax.io.console import warn
from rlhf_jax.sweep.register import register

Hints = Callable[[Any, Sequence[str]], Iterable[str]]


class Program:
    """A program as Hydra calls it, and what the launcher `lanes` asks of it (`Entry`)."""

    def __init__(self, run: Callable[[Any, Path], None], check: Hints | None):
        self.run, self.check = run, check
        self.failures: list[str] = []
        self.ended = False  # by itself, not by an error
        self.typed: list[str] | None = None  # by the user, where a run is resumed: not what it had
        self.earlier: dict[Path, bytes] = {}  # the settings of what is resumed
        self.resume: Path | None = None  # the sweep that is gone on with
        self.root: Path | None = None  # the sweep that runs in lanes
        self.ran = False  # a batch of it
        self.kept: set[Path] = set()  # directories that were there before
        self.resumable = False
        self.run_dir: Path | None = None  # of a single run that can be gone on with

    def __call__(self, config: DictConfig) -> None:
        """One job, in this process."""
        job = HydraConfig.get()
        output_dir = Path(job.runtime.output_dir)
        self.run_dir = output_dir if self.resumable and job.mode == RunMode.RUN else None
        try:
            settings = self.convert(config)
            for line in self.hints(settings, self.typed or job.overrides.task):
                warn(line)
            self.run(settings, output_dir)
        except (UserError, OmegaConfBaseException) as error:  # Hydra would print a line of its own
            label = f"{os.path.relpath(output_dir)}: " if job.mode == RunMode.MULTIRUN else ""
            self.failures.append(label + one_line(error, sys.argv[1:]))
            self.discard(output_dir)

    def keep(self, key: str, arguments: Sequence[str]) -> None:
        """Remembers a directory that is there already, so that it is not taken away."""
        folder = last(key, arguments)
        if folder is not None and Path(folder).exists():
            self.kept.add(Path(folder).resolve())

    def discard(self, folder: Path) -> None:
        """Takes away what a refused start left in a directory of its own."""
        if folder.resolve() not in self.kept:
            discard(folder)

    def begin(self, root: Path) -> None:
        """The directory of a sweep in lanes, before anything is written there."""
        self.root = root

    def convert(self, config: DictConfig) -> Any:
        """Settings in the schema, checked."""
        check_keys(config)
        settings = OmegaConf.to_object(config)
        self.hints(settings, [])
        return settings

    def hints(self, config: Any, typed: Sequence[str]) -> Iterable[str]:
        """What the user should hear of settings that can work."""
        return [] if self.check is None else self.check(config, [key_of(a) for a in typed])

    def explain(self, error: Exception, typed: Sequence[str]) -> str:
        """An error as one line."""
        return one_line(error, typed)

    def failed(self, lines: Sequence[str]) -> None:
        """Jobs that failed among others that did not."""
        self.failures += lines

    def further(self) -> str:
        """How to go on with what was interrupted."""
        if self.root is not None:
            return f"; go on with -m resume={self.root}"
        if self.run_dir is not None and (self.run_dir / "metrics.jsonl").exists():
            return f"; go on with resume={os.path.relpath(self.run_dir)}"
        return ""

    def restore(self) -> None:
        """Gives what was to go on the settings it had: it is resumed with these, or never more."""
        for path, data in self.earlier.items():
            try:
                path.write_bytes(data)
            except OSError as error:
                self.failures.append(f"{path}: {error.strerror}; the settings there have changed")

    def close(self) -> None:
        """Takes away a sweep that was refused; writes the report of one that ran."""
        if self.failures or not self.ended:
            self.restore()
        if self.root is not None and not begun(self.root):
            self.discard(self.root)
        elif self.root is not None and self.ran and ended(self.root):
            self.failures += report(self.root)


def launch(
    program: Callable[[Any, Path], None],
    config_name: str,
    schema: type,
    *,
    resumable: bool = False,
    check: Hints | None = None,
    groups: Collection[str] = GROUPS,
) -> None:
    """Composes the settings, calls `program(config, run_dir)` and shows errors as one line.

    Args:
      groups: what can be chosen by name.
      resumable: the program fills a directory of its own, which `resume=DIR` goes on with.
      check: refuses settings that cannot work, and names those typed that change nothing.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that errors reach `one_line`
    register_schemas(groups, **{f"base_{config_name}": schema})
    register()
    task = Program(program, check)
    task.resumable = resumable
    main = hydra.main(version_base="1.3", config_path="../configs", config_name=config_name)
    try:
        sys.argv[1:] = prepare(task, sys.argv[1:], groups, resumable)
        main(task)()
        task.ended = True
    except (UserError, HydraException, OmegaConfBaseException) as error:
        task.failures += one_line(error, sys.argv[1:]).splitlines()
    except KeyboardInterrupt:
        task.failures.append(f"interrupted{task.further()}")
    except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
        task.failures.append(f"{error.filename}: {error.strerror}")
    finally:  # of an error of another kind too: other jobs may have failed before it
        task.close()
        for failure in task.failures:
            print(f"error: {failure}", file=sys.stderr)
    if task.failures:
        sys.exit(2)


def prepare(
    task: Program, typed: Sequence[str], groups: Collection[str], resumable: bool
) -> list[str]:
    """What was typed, checked, as Hydra is given it; where a run is resumed, with its settings."""
    arguments = sorted(typed, key=MULTIRUN.__contains__)  # argparse wants it so
    check_choices(arguments, groups)
    if resumable:
        check_free(arguments)
        task.earlier = settings_files(arguments)
        task.typed = None if last("resume", arguments) is None else arguments
        arguments, task.resume = resumed_sweep(arguments)
        arguments = resumed(arguments, groups)
    task.keep("hydra.run.dir", arguments)
    task.keep("hydra.sweep.dir", arguments)
    return arguments
