"""Hydra's plugins for other machines: what sends their jobs, waits for one and ends one."""

from __future__ import annotations

import importlib
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.config_source import ConfigLoadError
from omegaconf import OmegaConf

from rlhf_jax.sweep.distribute import Distributed


class Submitit(Distributed):
    """Jobs that submitit sends."""

    module = "hydra_plugins.hydra_submitit_launcher.submitit_launcher"
    sends = "submitit:AutoExecutor.map_array"

    def result(self, handle: Any) -> JobReturn:
        """Waits for a job; raises what it died of."""
        return handle.results()[0]

    def cancel(self, handle: Any) -> None:
        """Ends a job, by `scancel` where it is one of Slurm."""
        handle.cancel(check=False)


class SubmititLocal(Submitit):
    """Processes on this machine, as a rehearsal of Slurm."""

    name = "LocalLauncher"


class SubmititSlurm(Submitit):
    """Jobs of Slurm."""

    name = "SlurmLauncher"


class Ray(Distributed):
    """Tasks of a Ray cluster, which end with the process that sent them."""

    module, name = "hydra_plugins.hydra_ray_launcher.ray_launcher", "RayLauncher"
    sends = "hydra_plugins.hydra_ray_launcher._core:launch_job_on_ray"

    def result(self, handle: Any) -> JobReturn:
        """Waits for a task; raises what it died of."""
        return importlib.import_module("ray").get(handle)


EXECUTORS = {"submitit_local": SubmititLocal, "submitit_slurm": SubmititSlurm, "ray": Ray}


def settings_of(name: str) -> dict[str, Any] | None:
    """The settings of the plugin a launcher stands for; None if it is not installed."""
    try:
        node = ConfigStore.instance().load(f"hydra/launcher/{name}.yaml").node
    except ConfigLoadError:
        return None
    found = OmegaConf.to_container(OmegaConf.create(node), resolve=False)
    return cast("dict[str, Any]", found)
