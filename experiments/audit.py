"""Every loss on the same samples: what would each have done at this very place of training?

python -m experiments.audit                                  # after a few updates of PPO
python -m experiments.audit run=outputs/rlhf/...             # at the policy of a finished run
python -m experiments.audit run=outputs/rlhf/... steps=16    # later in the update
python -m experiments.audit algo=grpo updates=20 batch_size=1024
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Optional, TypeVar

from hydra.core.hydra_config import HydraConfig

from experiments._cli import launch
from experiments._overrides import key_of, typed_value
from experiments.generate import load_run_config
from rlhf_jax import runtime
from rlhf_jax.checks import check_config, check_leaf
from rlhf_jax.config import (
    NOT_NEGATIVE,
    POSITIVE,
    BestOfNConfig,
    ConfigError,
    PolicyGradientConfig,
    RLHFConfig,
    number,
)

C = TypeVar("C")
COEFFICIENTS = ("kl_coef", "penalty_coef")
FREE = ("policy", "steps", "batch_size", "seed", "run", "sink", "algo")  # beside a finished run


@dataclass(frozen=True)
class AuditConfig(RLHFConfig):
    """`python -m experiments.audit`: the settings of experiments.rlhf, and where to look."""

    policy: Optional[str] = None  # directory of a finished run; run=DIR is short for it
    updates: int = number(10, NOT_NEGATIVE)  # from the reference, without a finished run
    steps: int = number(8, NOT_NEGATIVE)  # of the optimizer, from the rollout to the comparison
    batch_size: Optional[int] = number(
        None, POSITIVE
    )  # completions; null: 4 of the algorithm's batches


def main(config: AuditConfig, output_dir: Path) -> None:
    """Audits in `output_dir`."""
    typed = list(HydraConfig.get().overrides.task)
    trained = None if config.policy is None else load_run_config(config.policy)
    settings = settings_of(config, typed, trained)
    check_audit(config, settings)
    runtime.setup(settings.run)
    runtime.connect(settings.run)
    from rlhf_jax.train.audit.policy import Plan  # these import jax, so only after the set-up
    from rlhf_jax.train.audit.run import run_audit

    keys = [key_of(argument) for argument in typed]
    plan = Plan(
        updates=config.updates,
        steps=config.steps,
        batch_size=config.batch_size,
        run=None if config.policy is None else Path(config.policy),
        trained=trained,
        given=tuple(name for name in COEFFICIENTS if f"algo.{name}" in keys),
        seed=config.seed if "seed" in keys else None,
    )
    run_audit(settings, plan, output_dir)


def settings_of(
    config: AuditConfig, typed: Sequence[str], trained: RLHFConfig | None
) -> RLHFConfig:
    """The settings of the finished run, if there is one, with what may be typed anew.

    Raises:
      ConfigError: a setting was typed that an audit has no use for, or that the run has decided.
    """
    if config.resume is not None:
        raise ConfigError("resume", config.resume, "an audit is not resumed; use run=DIR")
    if trained is None:
        return RLHFConfig(**{f.name: getattr(config, f.name) for f in fields(RLHFConfig)})
    if isinstance(trained.algo, BestOfNConfig):
        accepted = "best_of_n trained nothing: its policy is the reference; audit that by updates=0"
        raise ConfigError("run", config.policy, accepted)
    for key in map(key_of, typed):
        if key.partition(".")[0] not in FREE:
            accepted = f"run={config.policy} has decided it; leave it out"
            raise ConfigError(key, typed_value(key, typed), accepted)
    algo = config.algo
    if isinstance(trained.algo, PolicyGradientConfig) and "algo" not in map(key_of, typed):
        algo = with_typed("algo", trained.algo, config.algo, typed)
    run = with_typed("run", trained.run, config.run, typed)
    return replace(trained, algo=algo, run=run, sink=config.sink)


def with_typed(group: str, stored: C, composed: C, typed: Sequence[str]) -> C:
    """Stored settings of a group, with those that were typed as they were composed."""
    names = [key.partition(".")[2] for key in map(key_of, typed) if key.startswith(f"{group}.")]
    changes = {name: getattr(composed, name) for name in names}
    return replace(stored, **changes)  # pyright: ignore[reportArgumentType, reportCallIssue]


def check_audit(config: AuditConfig, settings: RLHFConfig) -> None:
    """Raises ConfigError for the first setting that cannot work."""
    algo, size = settings.algo, config.batch_size
    if not isinstance(algo, PolicyGradientConfig):
        accepted = "has no loss on samples of its own; use ppo or its kin, or audit run=DIR of it"
        raise ConfigError("algo", algo.name, accepted)
    check_config(settings)
    for f in fields(AuditConfig):
        if f.name in ("updates", "steps", "batch_size"):
            check_leaf(f.name, f, getattr(config, f.name))
    unit = math.lcm(algo.batch_size // algo.minibatches, algo.group_size)
    if size is not None and size % unit:
        accepted = f"must be a multiple of {unit}: whole minibatches and groups"
        raise ConfigError("batch_size", size, accepted)


if __name__ == "__main__":
    sys.argv[1:] = [f"policy={a[4:]}" if a.startswith("run=") else a for a in sys.argv[1:]]
    launch(main, "audit", AuditConfig)
