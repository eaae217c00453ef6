"""Launchers for other machines: a group of lanes is one job of a cluster.

`hydra/launcher=submitit_local|submitit_slurm|ray` takes the settings of Hydra's plugin of that
name and hands it the groups of a sweep as its jobs; inside each, the lanes run as they do here.
So a plugin must be installed, and all machines must see the sweep's directory under one path.
"""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rlhf_jax.io.run_dir import flat, write_json
from rlhf_jax.sweep.jobs import FAILED, Job, JobEnd, write_error
from rlhf_jax.sweep.launcher import LanesLauncher, ended, engine, finished
from rlhf_jax.sweep.plan import by, cut, differing, group_key, static_part
from rlhf_jax.sweep.record import command

FOLDER = ".groups"  # of the sweep: a directory for each job of the cluster


class Groups:
    """The task of the plugin's jobs: job `i` runs the lanes of group `i`."""

    def __init__(self, groups: Sequence[Sequence[Job]], first: int, root: Path):
        self.groups, self.first, self.root = groups, first, root

    def __call__(self, _: DictConfig) -> list[JobEnd]:
        number = HydraConfig.get().job.num
        jobs = self.groups[number - self.first]
        todo = [job for job in jobs if finished(job) is None]  # it may have been sent before
        return engine.run_jobs(todo, self.root / FOLDER / str(number))


class Distributed(LanesLauncher):
    """Runs each group of lanes as one job of one of Hydra's plugins."""

    module, name = "", ""  # of the plugin's launcher
    sends = ""  # the function with which the plugin sends one job, or a list of them

    def __init__(self, **settings: Any):
        self.settings = settings

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Also makes the plugin's launcher, with a loader and callbacks that can be sent."""
        plugin = getattr(importlib.import_module(self.module), self.name)
        self.plugin: Launcher = plugin(**self.settings)
        context = HydraContext(config_loader=hydra_context.config_loader, callbacks=Callbacks())
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.plugin.setup(hydra_context=context, task_function=task_function, config=config)

    def run(self, jobs: Sequence[Job], root: Path) -> Sequence[JobEnd]:
        """Sends the groups and waits for all; how a job ended is read from its directory."""
        root = root.resolve()
        groups = groups_of([replace(job, path=job.path.resolve()) for job in jobs])
        first = first_free(root / FOLDER)  # after those of earlier batches, or before a resume
        numbers = range(first, first + len(groups))
        for number in numbers:
            (root / FOLDER / str(number)).mkdir(parents=True)
        self.plugin.task_function = Groups(groups, first, root)  # pyright: ignore
        place = [
            f"hydra.sweep.dir={quoted(root / FOLDER)}",
            "hydra.sweep.subdir=${hydra.job.num}",
            "hydra.output_subdir=null",
        ]
        statics = differing([flat(static_part(g[0].config)) for g in groups])
        try:
            reasons = self.sent([[*g[0].overrides, *place] for g in groups], first)
        finally:
            merge_records(root, dict(zip(numbers, statics)))
        return [how_ended(job, reason) for g, reason in zip(groups, reasons) for job in g]

    def sent(self, overrides: Sequence[Sequence[str]], first: int) -> list[object]:
        """Sends jobs and waits for all of them; Ctrl-C ends those that were sent."""
        handles: list[Any] = []
        try:
            return self.reasons(overrides, first, handles)
        except KeyboardInterrupt:
            for handle in handles:
                self.cancel(handle)
            raise

    def reasons(
        self, overrides: Sequence[Sequence[str]], first: int, handles: list[Any]
    ) -> list[object]:
        """Of each job why it did not end well, if it did not; fills `handles` as they are sent."""
        try:
            with kept(self.sends, handles):
                return [failure(job) for job in self.plugin.launch(overrides, first)]
        except Exception as error:  # of the first that died: the others may still be running
            unsent = [error] * (len(overrides) - len(handles))
            return [self.reason(handle) for handle in handles] + unsent

    def reason(self, handle: Any) -> object:
        """Waits for one job; why it did not end well, if it did not."""
        try:
            return failure(self.result(handle))
        except Exception as error:
            return error

    def result(self, handle: Any) -> JobReturn:
        """Waits for a job of the cluster; raises what it died of."""
        raise NotImplementedError

    def cancel(self, handle: Any) -> None:
        """Ends a job of the cluster, whether it waits or runs."""


def quoted(path: Path) -> str:
    """A path as Hydra reads it back.

    >>> quoted(Path("/runs/my sweep"))
    "'/runs/my sweep'"
    """
    return QuotedString(text=str(path), quote=Quote.single).with_quotes()


def groups_of(jobs: Sequence[Job]) -> list[list[Job]]:
    """Jobs of one compiled program; no more than `sweep.max_lanes` of them together."""
    sets = by(lambda job: group_key(job.config), jobs).values()
    return [list(part) for s in sets for part in cut(s, s[0].config.sweep.max_lanes or len(s))]


def first_free(folder: Path) -> int:
    """The number after the highest that a directory in `folder` has."""
    return max((int(path.name) for path in folder.glob("[0-9]*")), default=-1) + 1


@contextmanager
def kept(function: str, handles: list[Any]) -> Iterator[None]:
    """Keeps what `module:function` returns while this is open.

    The plugins tell nobody what they have sent, and wait no longer when one job has died.
    """
    module, _, path = function.partition(":")
    owner, _, name = path.rpartition(".")
    found = pkgutil.resolve_name(f"{module}:{owner}")
    send = getattr(found, name)

    def keeping(*args: Any, **kwargs: Any) -> Any:
        sent = send(*args, **kwargs)
        handles.extend(sent if isinstance(sent, list) else [sent])
        return sent

    setattr(found, name, keeping)
    try:
        yield
    finally:
        setattr(found, name, send)


def failure(job: JobReturn) -> object:
    """What a job of Hydra raised, empty if nothing."""
    return job._return_value if job.status == JobStatus.FAILED else ""


def how_ended(job: Job, reason: object) -> JobEnd:
    """What the directory of a job says of its end; `reason` is told if it says nothing."""
    end = ended(job)
    if end is not None:
        return end
    line = f"the job it was sent with did not end well: {' '.join(str(reason).split())[-300:]}"
    write_error(job.path, line)
    return JobEnd(job.number, FAILED, line, None)


def merge_records(root: Path, statics: Mapping[int, Mapping[str, Any]]) -> None:
    """Puts the groups of all machines into the sweep's own sweep.json.

    Args:
      statics: of each machine's number the settings in which its group differs from the others.
    """
    parts = []
    for number, static in statics.items():
        path = root / FOLDER / str(number) / "sweep.json"
        if path.exists():
            part = json.loads(path.read_text())
            parts.append(part | {"groups": [g | {"static": dict(static)} for g in part["groups"]]})
    if not parts:
        return
    own = root / "sweep.json"
    sweep = json.loads(own.read_text()) if own.exists() else parts[0] | {"groups": [], "seconds": 0}
    groups = [*sweep["groups"], *(group for part in parts for group in part["groups"])]
    sweep["groups"] = [group | {"id": place} for place, group in enumerate(groups)]
    sweep["seconds"] += max(part["seconds"] for part in parts)
    write_json(own, sweep | {"command": command()})
