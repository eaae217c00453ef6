"""Makes our launchers known to Hydra, from the source tree and from an installed package alike.

Hydra 1.3 takes plugins from the namespace `hydra_plugins` alone, looks for its modules by walking
folders, which editable installs hide, and knows a class by the module it names. So the classes
are registered by hand, under a name in that namespace, before `hydra.main` composes anything.
`configs/hydra/launcher/` names them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from rlhf_jax.sweep.executors import EXECUTORS, settings_of
from rlhf_jax.sweep.launcher import LanesLauncher

ALIAS = "hydra_plugins.rlhf_jax"


def register() -> None:
    """Registers `hydra/launcher=lanes`, and those of other machines; harmless when repeated."""
    plugins = Plugins.instance()  # which has read the plugins that are installed
    store = ConfigStore.instance()
    for name, launcher in {"lanes": LanesLauncher, **EXECUTORS}.items():
        with named(launcher):
            plugins.register(launcher)
        settings = settings_of(name)
        if settings is not None:
            settings["_target_"] = f"{ALIAS}.{launcher.__name__}"
            store.store(group="hydra/launcher", name=name, node=OmegaConf.create(settings))


@contextmanager
def named(launcher: type[Launcher]) -> Iterator[None]:
    """The class under its other name; under its own it can be pickled and found again."""
    own = launcher.__module__
    launcher.__module__ = ALIAS
    try:
        yield
    finally:
        launcher.__module__ = own
