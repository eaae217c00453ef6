"""A loader of Hydra's that composes the jobs of a sweep quickly, and tells of errors by job."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException


class Composer:
    """Composes each job once, for the sweeper that tries it and for the launcher.

    Composing takes a tenth of a second, and a sweep has hundreds of jobs. So a job that differs
    from an earlier one in plain values alone is a copy of it with these values. What cannot be
    composed is told by `job`, so that every wrong job is named, not only the first.
    """

    def __init__(self, loader: ConfigLoader):
        self.loader = loader
        self.known: dict[tuple[str, ...], DictConfig | Exception] = {}
        self.stems: dict[tuple[str, ...], DictConfig] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def load_sweep_config(
        self, master_config: DictConfig, sweep_overrides: list[str]
    ) -> DictConfig | None:
        """Composes a job, or keeps the reason why not for `job`."""
        key = tuple(sweep_overrides)
        if key not in self.known:
            try:
                self.known[key] = self.composed(master_config, sweep_overrides)
            except (HydraException, OmegaConfBaseException) as error:
                self.known[key] = error
        found = self.known[key]
        return None if isinstance(found, Exception) else found

    def job(self, master_config: DictConfig, overrides: Sequence[str]) -> DictConfig:
        """Settings of a job.

        Raises:
          HydraException, OmegaConfBaseException: it cannot be composed.
        """
        self.load_sweep_config(master_config, list(overrides))
        found = self.known.pop(tuple(overrides))
        if isinstance(found, Exception):
            raise found
        return found

    def composed(self, master_config: DictConfig, overrides: list[str]) -> DictConfig:
        """A job of its own, or an earlier one with other values."""
        parsed = OverridesParser.create(config_loader=self.loader).parse_overrides(overrides)
        values = {o.key_or_group: o for o in parsed if self.is_value(o)}
        shape = tuple(
            o.key_or_group if o.key_or_group in values else str(o.input_line) for o in parsed
        )
        try:
            if shape in self.stems:
                return with_values(self.stems[shape], values, overrides)
        except OmegaConfBaseException:
            pass  # Hydra says it better
        found = self.loader.load_sweep_config(master_config, overrides)
        self.stems[shape] = copy.deepcopy(found)
        return found

    def is_value(self, override: Override) -> bool:
        """Whether it sets one plain value, and so decides nothing about what is composed."""
        key = override.key_or_group
        plain = "=" in str(override.input_line) and str(override.input_line)[0] not in "+~"
        if not plain or override.package is not None or "/" in key or key.startswith("hydra."):
            return False
        group = "." not in key and bool(self.loader.get_group_options(key))
        return not group and not isinstance(override.value(), list | dict)


def with_values(
    stem: DictConfig, values: dict[str, Override], overrides: Sequence[str]
) -> DictConfig:
    """A copy of a job with other values, and with what Hydra notes of its overrides.

    Raises:
      OmegaConfBaseException: a value is of the wrong type.
    """
    job = copy.deepcopy(stem)
    for key, override in values.items():
        OmegaConf.update(job, key, override.value(), merge=True)
    own = job.hydra.job.config.override_dirname
    named = [o for o in overrides if o.partition("=")[0] not in own.exclude_keys]
    with read_write(job.hydra), open_dict(job.hydra):
        job.hydra.overrides.task = list(overrides)
        text = own.item_sep.join(sorted(named))
        job.hydra.job.override_dirname = text.replace("=", own.kv_sep)
    return job
