"""The jobs of a multirun, checked before any of them runs."""

from __future__ import annotations

import copy
import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from rlhf_jax.config import ConfigError, RLHFConfig, UserError
from rlhf_jax.io.run_dir import flat
from rlhf_jax.sweep.objective import check_objective

FREE = ("resume", "run", "sink", "sweep")  # may be others when a sweep is resumed


class Entry(Protocol):
    """What an entry point knows of its settings; Hydra's task function has these methods."""

    resume: Path | None  # the sweep that is gone on with
    ran: bool  # a batch of jobs was run

    def begin(self, root: Path) -> None:
        """Is told the directory of the sweep before anything is written there."""

    def convert(self, config: DictConfig) -> RLHFConfig:
        """Checked settings; raises what `explain` turns into a line."""
        ...

    def hints(self, config: RLHFConfig, typed: Sequence[str]) -> Iterable[str]:
        """Warnings of one job; `typed` are its overrides."""
        ...

    def explain(self, error: Exception, typed: Sequence[str]) -> str:
        """An error of the user as one line."""
        ...

    def failed(self, lines: Sequence[str]) -> None:
        """Is told of jobs that failed."""


class Refused(UserError):
    """Jobs that cannot work: a line for each."""


@dataclass(frozen=True)
class Planned:
    """A job as it will run."""

    number: int
    path: Path
    settings: DictConfig  # with the node `hydra`
    task: DictConfig  # without it
    config: RLHFConfig
    overrides: tuple[str, ...]


def plan_jobs(
    compose: Callable[[Sequence[str]], DictConfig],
    entry: Entry,
    batch: Sequence[Sequence[str]],
    first: int,
) -> list[Planned]:
    """Composes and checks every job of a batch; nothing is written.

    Args:
      compose: from the overrides of a job to its settings.
      batch: overrides, a sequence a job.
      first: number of the first job.

    Raises:
      Refused: with a line for each wrong job; jobs that are wrong in the same way share one.
    """
    planned: list[Planned] = []
    wrong: list[tuple[str, str]] = []
    shown = varied(batch)
    for place, overrides in enumerate(batch):
        number = first + place
        try:
            settings = numbered(compose(overrides), number)
            planned.append(plan(settings, entry, number, overrides))
        except (UserError, HydraException, OmegaConfBaseException) as error:
            wrong.append((entry.explain(error, overrides), f"job {number}{shown[place]}"))
    wrong += collisions(planned) + unequal(planned)
    if wrong:
        raise Refused("\n".join(told(wrong, len(batch))))
    return planned


def plan(settings: DictConfig, entry: Entry, number: int, overrides: Sequence[str]) -> Planned:
    """One job: its directory and its checked settings."""
    before = HydraConfig.instance().cfg
    HydraConfig.instance().set_config(settings)  # for what refers to ${hydra:...}
    try:
        path = Path(str(settings.hydra.sweep.dir)) / str(settings.hydra.sweep.subdir)
        with read_write(settings.hydra.runtime), open_dict(settings.hydra.runtime):
            settings.hydra.runtime.output_dir = os.path.abspath(path)
        task = task_settings(settings)
        job = Planned(number, path, settings, task, entry.convert(task), tuple(overrides))
        check_place(job, entry.resume)
        check_objective(job.config, search=is_search(settings))
        return job
    finally:
        HydraConfig.instance().cfg = before


def numbered(settings: DictConfig, number: int) -> DictConfig:
    """The settings with the number Hydra gives a job."""
    with open_dict(settings):
        settings.hydra.job.id = settings.hydra.job.num = number
    return settings


def is_search(settings: DictConfig) -> bool:
    """Whether the sweeper chooses jobs by what earlier ones returned, as Hydra's own does not."""
    return not str(settings.hydra.sweeper._target_).endswith(".BasicSweeper")


def task_settings(settings: DictConfig) -> DictConfig:
    """A copy of the settings without those of Hydra, of the schema's type."""
    task = copy.deepcopy(settings)
    with read_write(task), open_dict(task):
        del task["hydra"]
    return task


def check_place(job: Planned, resume: Path | None) -> None:
    """A new job needs a directory without a run; a resumed one the settings it was begun with."""
    stored = job.path / ".hydra" / "config.yaml"
    if resume is None:
        if stored.exists() or (job.path / "metrics.jsonl").exists():
            folder = str(job.path.parent)
            accepted = f"already holds runs; go on with -m resume={folder}, or choose another"
            raise ConfigError("hydra.sweep.dir", folder, accepted)
    elif stored.exists():
        then, now = written(OmegaConf.load(stored)), written(job.task)
        for key in sorted({*then, *now}):
            if key.partition(".")[0] not in FREE and then.get(key) != now.get(key):
                accepted = f"{job.path} was begun with {then.get(key)!r}; start a new sweep"
                raise ConfigError(key, now.get(key), accepted)


def written(config: DictConfig | ListConfig) -> dict[str, Any]:
    """Settings as they are written, by dotted key."""
    found = OmegaConf.to_container(config, resolve=False)
    assert isinstance(found, dict)
    return flat({str(key): value for key, value in found.items()})


def collisions(planned: Sequence[Planned]) -> list[tuple[str, str]]:
    """Jobs that would write into the directory of another."""
    count = Counter(job.path for job in planned)
    message = "hydra.sweep.subdir: must differ from job to job"
    return [(message, f"job {job.number}") for job in planned if count[job.path] > 1]


def unequal(planned: Sequence[Planned]) -> list[tuple[str, str]]:
    """Jobs that are to be run in another way than the first: worker processes are set up once."""
    wrong = []
    for job in planned[1:]:
        first, own = how(planned[0].config), how(job.config)
        for key in [key for key, value in own.items() if value != first[key]]:
            accepted = f"must be the same in all jobs of a sweep; the first has {first[key]!r}"
            wrong.append((str(ConfigError(key, own[key], accepted)), f"job {job.number}"))
    return wrong


def how(config: RLHFConfig) -> dict[str, Any]:
    """The settings that all jobs of a sweep have in common."""
    return flat({name: dataclasses.asdict(getattr(config, name)) for name in ("run", "sweep")})


def varied(batch: Sequence[Sequence[str]]) -> list[str]:
    """For each job the overrides that not every job has, as ` (a=1 b=2)`.

    >>> varied([["seed=0", "a=1"], ["seed=0", "a=2"]]), varied([["seed=0"]])
    ([' (a=1)', ' (a=2)'], [''])
    """
    common = set(batch[0]).intersection(*batch[1:])
    own = [" ".join(o for o in overrides if o not in common) for overrides in batch]
    return [f" ({text})" if text else "" for text in own]


def told(lines: Sequence[tuple[str, str]], total: int) -> list[str]:
    """`job: message` for each; jobs with one and the same message share a line.

    >>> told([("seed=-1: must be 0 or above", "job 1 (seed=-1)")], 2)
    ['job 1 (seed=-1): seed=-1: must be 0 or above']
    >>> told([("a=0: must be above 0", "job 0"), ("a=0: must be above 0", "job 1")], 2)
    ['a=0: must be above 0 (all 2 jobs)']
    """
    jobs: dict[str, list[str]] = {}
    for message, job in lines:
        jobs.setdefault(message, []).append(job)
    return [
        f"{found[0]}: {message}"
        if len(found) == 1
        else f"{message} (all {total} jobs)"
        if len(found) == total
        else f"{message} ({len(found)} of {total} jobs; the first is {found[0]})"
        for message, found in jobs.items()
    ]
