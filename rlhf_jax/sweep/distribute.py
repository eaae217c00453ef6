"""Launchers for other machines: a group of lanes is one job of a cluster.

`hydra/launcher=submitit_local|submitit_slurm|ray` takes the settings of Hydra's plugin of that
name and hands it the groups of a sweep as its jobs; inside each, the lanes run as they do here.
So a plugin must be installed, and all machines must see the sweep's directory under one path.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from hydra._internal.callbacks import Callbacks
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.core.utils import JobStatus
from hydra.plugins.config_source import ConfigLoadError
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from rlhf_jax.io.run_dir import write_json
from rlhf_jax.sweep.jobs import FAILED, Job, JobEnd, write_error
from rlhf_jax.sweep.launcher import LanesLauncher, engine, finished
from rlhf_jax.sweep.plan import by, cut, group_key
from rlhf_jax.sweep.record import command

FOLDER = ".groups"  # of the sweep: a directory for each job of the cluster


class Groups:
    """The task of the plugin's jobs: job `i` runs the lanes of group `i`."""

    def __init__(self, groups: Sequence[Sequence[Job]], first: int, root: Path):
        self.groups, self.first, self.root = groups, first, root

    def __call__(self, _: DictConfig) -> list[JobEnd]:
        number = HydraConfig.get().job.num
        return engine.run_jobs(self.groups[number - self.first], self.root / FOLDER / str(number))


class Distributed(LanesLauncher):
    """Runs each group of lanes as one job of one of Hydra's plugins."""

    module, name = "", ""  # of the plugin's launcher

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
        first = len(list((root / FOLDER).glob("*")))  # of earlier batches, or before a resume
        numbers = range(first, first + len(groups))
        self.plugin.task_function = Groups(groups, first, root)  # pyright: ignore
        place = [
            f"hydra.sweep.dir={quoted(root / FOLDER)}",
            "hydra.sweep.subdir=${hydra.job.num}",
            "hydra.output_subdir=null",
        ]
        try:
            returns = self.plugin.launch([[*g[0].overrides, *place] for g in groups], first)
            reasons = [r._return_value if r.status == JobStatus.FAILED else "" for r in returns]
        except Exception as error:  # of one machine: the others may have ended well
            reasons = [error] * len(groups)
        merge_records(root, numbers)
        return [how_ended(job, reason) for g, reason in zip(groups, reasons) for job in g]


class SubmititLocal(Distributed):
    """Processes on this machine, as a rehearsal of Slurm."""

    module, name = "hydra_plugins.hydra_submitit_launcher.submitit_launcher", "LocalLauncher"


class SubmititSlurm(Distributed):
    """Jobs of Slurm."""

    module, name = "hydra_plugins.hydra_submitit_launcher.submitit_launcher", "SlurmLauncher"


class Ray(Distributed):
    """Tasks of a Ray cluster."""

    module, name = "hydra_plugins.hydra_ray_launcher.ray_launcher", "RayLauncher"


EXECUTORS = {"submitit_local": SubmititLocal, "submitit_slurm": SubmititSlurm, "ray": Ray}


def settings_of(name: str) -> dict[str, Any] | None:
    """The settings of the plugin a launcher stands for; None if it is not installed."""
    try:
        node = ConfigStore.instance().load(f"hydra/launcher/{name}.yaml").node
    except ConfigLoadError:
        return None
    found = OmegaConf.to_container(OmegaConf.create(node), resolve=False)
    return cast("dict[str, Any]", found)


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


def how_ended(job: Job, reason: object) -> JobEnd:
    """What the directory of a job says of its end; `reason` is told if it says nothing."""
    end = finished(job)
    if end is not None:
        return end
    path = job.path / "error.json"
    if not path.exists():
        last = " ".join(str(reason).split())[-300:]
        write_error(job.path, f"the job it was sent with did not end well: {last}", "")
    return JobEnd(job.number, FAILED, json.loads(path.read_text())["error"], None)


def merge_records(root: Path, numbers: Sequence[int]) -> None:
    """Puts the groups of all machines into the sweep's own sweep.json."""
    paths = [root / FOLDER / str(number) / "sweep.json" for number in numbers]
    parts = [json.loads(path.read_text()) for path in paths if path.exists()]
    if not parts:
        return
    own = root / "sweep.json"
    sweep = json.loads(own.read_text()) if own.exists() else parts[0] | {"groups": [], "seconds": 0}
    groups = [*sweep["groups"], *(group for part in parts for group in part["groups"])]
    sweep["groups"] = [group | {"id": place} for place, group in enumerate(groups)]
    sweep["seconds"] += max(part["seconds"] for part in parts)
    write_json(own, sweep | {"command": command()})
