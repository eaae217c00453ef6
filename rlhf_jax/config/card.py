"""Settings of the report card."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from rlhf_jax.config.fields import NOT_NEGATIVE, POSITIVE, SEED, number


@dataclass(frozen=True)
class GateConfig:
    """What the card must show, written down before it is run."""

    # Trainers that must reach the optimum of `task`: gap share, beta_eff and its R^2.
    task: str = "token_tree"
    reach: list[str] = field(default_factory=list)
    gap_share: float = number(0.02, POSITIVE)  # upper end of the interval of the IQM
    beta_error: float = number(0.05, POSITIVE)  # relative
    beta_r2: float = number(0.98, POSITIVE)
    # Trainers that lead elsewhere: `algo/task`, held to their own predicted fixed point.
    own: list[str] = field(default_factory=list)
    # Broken on purpose: `algo/task`, which must miss the optimum by more than the gate allows.
    controls: list[str] = field(default_factory=list)
    # Told another price on purpose: `algo/task`, which `beta_eff` must give away.
    mispriced: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class CardConfig:
    """`python -m experiments.exact`: which algorithms on which tasks, how often and how long."""

    tasks: list[str] = field(default_factory=list)
    algos: list[str] = field(default_factory=list)
    instances: int = number(2, POSITIVE)
    first_instance: int = number(0, NOT_NEGATIVE)  # 0 to 7 are frozen; from 8 on they are new
    seeds: int = number(4, POSITIVE)
    first_seed: int = number(0, SEED)
    smallest_budget: int = number(10, NOT_NEGATIVE)  # completions, as a power of 2
    largest_budget: int = number(15, NOT_NEGATIVE)
    largest: dict[str, int] = field(default_factory=dict)  # in its place, of `task`, `task/algo`
    beta: float = number(0.5, POSITIVE)  # price of a nat in every objective
    # Overrides of experiments.rlhf: for all, by kind of algorithm, for one algorithm, and for one
    # task or `task/algo`. A name with a dot (`rloo.k1_in_loss`) is a variant of the algorithm
    # before it, and one with an at (`dpo@bandit`) is run on that task alone.
    common: list[str] = field(default_factory=list)
    sampled: list[str] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)
    own: dict[str, list[str]] = field(default_factory=dict)
    own_task: dict[str, list[str]] = field(default_factory=dict)
    gates: GateConfig = field(default_factory=GateConfig)
    workers: Optional[int] = number(None, POSITIVE)  # processes; default: one a core
    resume: Optional[str] = None
    progress: bool = True

    def budgets(self, task: str, algo: str = "") -> list[int]:
        """Completions after which the policies of a cell are looked at."""
        of_task = self.largest.get(task, self.largest_budget)
        last = self.largest.get(f"{task}/{algo}", of_task)
        return [2**i for i in range(self.smallest_budget, last + 1)]

    def cells(self) -> list[tuple[str, str]]:
        """(task, algorithm) of every cell."""
        split = [algo.partition("@") for algo in self.algos]
        return [(t, algo) for t in self.tasks for algo, _, only in split if only in ("", t)]
