"""The report card: every algorithm on tasks whose optimum is known, scored by its distance to it.

python -m experiments.exact                                # the whole card
python -m experiments.exact card=small                     # three tasks, two to three minutes
python -m experiments.exact tasks=[bandit] algos=[ppo,rloo] seeds=8
python -m experiments.exact first_instance=8               # instances nobody has tuned on
python -m experiments.exact resume=outputs/exact/...       # what is missing of a stopped card
"""

from __future__ import annotations

import dataclasses
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

from hydra import compose
from omegaconf import OmegaConf

from experiments._cli import launch
from experiments._schemas import SCHEMAS, names_of, register_schemas
from rlhf_jax.checks import check_config, check_leaf, leaves
from rlhf_jax.config import (
    AlgoConfig,
    CardConfig,
    ConfigError,
    EnumerableConfig,
    OnlineDPOConfig,
    PolicyGradientConfig,
    PreferenceConfig,
    RLHFConfig,
)

LISTED = sorted(k.name for k in SCHEMAS.values() if issubclass(k, EnumerableConfig))


def main(config: CardConfig, output_dir: Path) -> None:
    """Runs the card in `output_dir`, or goes on with that of `resume`."""
    check_card(config)
    jobs = list(jobs_of(config))
    from rlhf_jax.lab.run import run_card

    if config.resume is None and (output_dir / "card.json").exists():
        accepted = f"already holds a card; go on with it by resume={output_dir}, or choose another"
        raise ConfigError("hydra.run.dir", str(output_dir), accepted)
    if config.resume is not None and not (Path(config.resume) / "cells.jsonl").exists():
        raise ConfigError("resume", config.resume, "holds no cells of a card")
    path = output_dir if config.resume is None else Path(config.resume)
    if not run_card(config, jobs, path):
        sys.exit(1)


def check_card(config: CardConfig) -> None:
    """Raises ConfigError for the first setting that cannot work."""
    for key, f, value in leaves(config):
        check_leaf(key, f, value)
    for task in config.tasks:
        if task not in LISTED:
            raise ConfigError("tasks", task, f"must be of {', '.join(LISTED)}")
    for algo in (algo.partition("@")[0] for algo in config.algos):
        if algo.partition(".")[0] not in names_of("algo"):
            raise ConfigError("algos", algo, f"must be of {', '.join(names_of('algo'))}")
        if "." in algo and algo not in config.own:
            raise ConfigError("algos", algo, f"own.{algo} must say what it changes")
    check_names(config)
    for algo in (algo for algo in config.algos if "@" in algo):
        if algo.partition("@")[2] not in LISTED:
            raise ConfigError("algos", algo, f"@ must be of {', '.join(LISTED)}")
    sizes = {"largest_budget": config.largest_budget}
    sizes |= {f"largest.{task}": size for task, size in config.largest.items()}
    for name, size in config.largest.items():
        task, _, algo = name.partition("/")
        if task not in LISTED or (algo and algo.partition(".")[0] not in names_of("algo")):
            raise ConfigError(f"largest.{name}", size, "the key must be a task, or task/algorithm")
    for key, size in sizes.items():
        if size < config.smallest_budget:
            raise ConfigError(key, size, f"at least smallest_budget={config.smallest_budget}")


def check_names(config: CardConfig) -> None:
    """Raises ConfigError for a cell asked for twice, and for a gate on what there is not."""
    cells = config.cells()
    twice = [f"{algo} on {task}" for task, algo in cells if cells.count((task, algo)) > 1]
    if twice:
        raise ConfigError("algos", twice[0], "asked for twice")
    known = {algo.replace(".", "_") for algo in (*names_of("algo"), *config.own)}
    gates = config.gates
    for key in ("reach", "own", "controls", "mispriced"):
        for name in getattr(gates, key):
            algo, _, task = name.partition("/")
            if algo not in known or (task or gates.task) not in LISTED:
                wanted = "ALGO" if key == "reach" else "ALGO/TASK"
                raise ConfigError(f"gates.{key}", name, f"must be {wanted} of the card")
    for algo in config.own:
        if algo.partition(".")[0] not in names_of("algo"):
            raise ConfigError("own", algo, f"must be of {', '.join(names_of('algo'))}")


def jobs_of(config: CardConfig):
    """The cells of the card, as settings of experiments.rlhf."""
    from rlhf_jax.lab.run import CALIBRATION, Job

    register_schemas(base_rlhf=RLHFConfig)
    for task in config.tasks:
        plain = settings(config, task, "ppo")
        yield Job(task=task, algo=CALIBRATION, config=plain)
        for _, algo in (cell for cell in config.cells() if cell[0] == task):
            yield Job(task=task, algo=algo, config=settings(config, task, algo))


def settings(config: CardConfig, task: str, algo: str) -> RLHFConfig:
    """The settings of one cell.

    Raises:
      ConfigError: they cannot work.
    """
    base = algo.partition(".")[0]
    kind = algo_of(base)
    if not isinstance(kind, PolicyGradientConfig | PreferenceConfig | OnlineDPOConfig):
        raise ConfigError("algos", algo, "trains nothing step by step; the card cannot run it")
    found = composed([f"task={task}", f"algo={base}", *overrides(config, task, algo, kind)])
    check_rewards(found)
    samples, first, *_ = found.algo.completions, config.budgets(task, algo)[0]
    if samples > first:
        accepted = f"draws {samples} completions an update, more than the first budget of {first}"
        raise ConfigError("algos", algo, accepted)
    updates = config.budgets(task, algo)[-1] // samples
    named = dataclasses.replace(found.algo, updates=updates, name=algo.replace(".", "_"))
    found = dataclasses.replace(found, algo=named)
    check_config(found)
    return found


def check_rewards(config: RLHFConfig) -> None:
    """Raises ConfigError for rewards and labels that the card's aims are not computed for."""
    task = config.task
    assert isinstance(task, EnumerableConfig)
    plain = {"reward": "gold", "annotator_temperature": 1.0, "flip_rate": 0.0}
    for name, value in plain.items():
        if getattr(task, name) != value:
            raise ConfigError(f"task.{name}", getattr(task, name), f"must be {value} on the card")


def overrides(config: CardConfig, task: str, algo: str, kind: object) -> Iterator[str]:
    """What the card changes of the defaults, the most special last."""
    price = "beta" if isinstance(kind, PreferenceConfig | OnlineDPOConfig) else "kl_coef"
    yield f"algo.{price}={config.beta}"
    yield from config.common
    yield from config.pairs if isinstance(kind, PreferenceConfig) else ()
    yield from config.sampled if isinstance(kind, PolicyGradientConfig) else ()
    yield from config.own.get(algo.partition(".")[0], ())
    yield from config.own_task.get(task, ())
    yield from config.own_task.get(f"{task}/{algo}", ())
    if "." in algo:
        yield from config.own[algo]


@functools.cache
def algo_of(name: str) -> AlgoConfig:
    """The settings of an algorithm as they are before the card's."""
    return composed([f"algo={name}"]).algo


def composed(typed: list[str]) -> RLHFConfig:
    """Settings of experiments.rlhf."""
    return OmegaConf.to_object(compose("rlhf", overrides=typed))  # pyright: ignore


if __name__ == "__main__":
    launch(main, "exact", CardConfig, groups={"card"})
