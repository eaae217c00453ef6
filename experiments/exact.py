"""The report card: every algorithm on tasks whose optimum is known, scored by its distance to it.

python -m experiments.exact                                # under fifteen minutes on two cores
python -m experiments.exact card=small                     # three tasks, under three minutes
python -m experiments.exact tasks=[bandit] algos=[ppo,rloo] seeds=8
python -m experiments.exact first_instance=8               # instances nobody has tuned on
python -m experiments.exact resume=outputs/exact/...       # what is missing of a stopped card
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

from hydra import compose
from omegaconf import OmegaConf

from experiments._cli import launch
from experiments._schemas import SCHEMAS, names_of, register_schemas
from rlhf_jax.checks import check_config, check_leaf, leaves
from rlhf_jax.config import (
    CardConfig,
    ConfigError,
    EnumerableConfig,
    OnlineDPOConfig,
    PolicyGradientConfig,
    PreferenceConfig,
    RLHFConfig,
)


def main(config: CardConfig, output_dir: Path) -> None:
    """Runs the card in `output_dir`, or goes on with that of `resume`."""
    check_card(config)
    jobs = list(jobs_of(config))
    from rlhf_jax.lab.run import run_card

    path = output_dir if config.resume is None else Path(config.resume)
    if not run_card(config, jobs, path):
        sys.exit(1)


def check_card(config: CardConfig) -> None:
    """Raises ConfigError for the first setting that cannot work."""
    for key, f, value in leaves(config):
        check_leaf(key, f, value)
    listed = [kind.name for kind in SCHEMAS.values() if issubclass(kind, EnumerableConfig)]
    for task in config.tasks:
        if task not in listed:
            raise ConfigError("tasks", task, f"must be of {', '.join(sorted(listed))}")
    for algo in config.algos:
        if algo.partition(".")[0] not in names_of("algo"):
            raise ConfigError("algos", algo, f"must be of {', '.join(names_of('algo'))}")
        if "." in algo and algo not in config.own:
            raise ConfigError("algos", algo, f"own.{algo} must say what it changes")
    if config.largest_budget < config.smallest_budget:
        accepted = f"at least smallest_budget={config.smallest_budget}"
        raise ConfigError("largest_budget", config.largest_budget, accepted)


def jobs_of(config: CardConfig):
    """The cells of the card, as settings of experiments.rlhf."""
    from rlhf_jax.lab.run import CALIBRATION, Job

    register_schemas(base_rlhf=RLHFConfig)
    for task in config.tasks:
        plain = settings(config, task, "ppo")
        yield Job(task=task, algo=CALIBRATION, config=plain)
        for algo in config.algos:
            yield Job(task=task, algo=algo, config=settings(config, task, algo))


def settings(config: CardConfig, task: str, algo: str) -> RLHFConfig:
    """The settings of one cell.

    Raises:
      ConfigError: they cannot work.
    """
    base = algo.partition(".")[0]
    kind = composed([f"task={task}", f"algo={base}"]).algo
    if not isinstance(kind, PolicyGradientConfig | PreferenceConfig | OnlineDPOConfig):
        raise ConfigError("algos", algo, "trains nothing step by step; the card cannot run it")
    found = composed([f"task={task}", f"algo={base}", *overrides(config, task, algo, kind)])
    samples = found.algo.batch_size * (2 if isinstance(kind, PreferenceConfig) else 1)
    if isinstance(found.algo, PolicyGradientConfig):
        samples = found.algo.samples
    updates = max(2**config.largest_budget // samples, 1)
    named = dataclasses.replace(found.algo, updates=updates, name=algo.replace(".", "_"))
    found = dataclasses.replace(found, algo=named)
    check_config(found)
    return found


def overrides(config: CardConfig, task: str, algo: str, kind: object) -> Iterator[str]:
    """What the card changes of the defaults, the most special last."""
    price = "beta" if isinstance(kind, PreferenceConfig | OnlineDPOConfig) else "kl_coef"
    yield f"algo.{price}={config.beta}"
    yield from config.common
    yield from config.pairs if isinstance(kind, PreferenceConfig) else ()
    yield from config.sampled if isinstance(kind, PolicyGradientConfig) else ()
    yield from config.own.get(algo.partition(".")[0], ())
    yield from config.own_task.get(task, ())
    if "." in algo:
        yield from config.own[algo]


def composed(typed: list[str]) -> RLHFConfig:
    """Settings of experiments.rlhf."""
    return OmegaConf.to_object(compose("rlhf", overrides=typed))  # pyright: ignore


if __name__ == "__main__":
    launch(main, "exact", CardConfig)
