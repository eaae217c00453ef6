"""A line for each arm of a sweep, and what must be known before it is believed."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np

from rlhf_jax.report.card_numbers import FEW_SEEDS
from rlhf_jax.report.stats import Estimate
from rlhf_jax.report.sweep_compare import aggregate
from rlhf_jax.report.sweep_factors import Factor
from rlhf_jax.report.sweep_question import Question, at
from rlhf_jax.report.sweep_study import Study, lower_is_better

BESIDE = (  # the outcome: what else is told of every arm
    "exact/gap_share",
    "after/objective/kl",
    "after/policy/entropy_avg",
    "after/tokens/completion_length",
)


class Arm(NamedTuple):
    """Runs that share the value of a factor, or of all of them."""

    label: str
    values: tuple[str, ...]
    runs: int
    lost: int  # of those, the ones that diverged
    missing: int  # failed, or not ended
    numbers: dict[str, Estimate | None]


def arms_of(question: Question, factor: Factor | None) -> list[Arm]:
    """A line for each value of a factor; for None one for each combination, the best first."""
    study = question.study
    if factor is not None:
        chosen = [({factor: v}, (factor.label(v),)) for v in factor.values]
        return [_arm(question, *c) for c in chosen]
    every = itertools.product(*(f.values for f in study.factors))
    combined = [dict(zip(study.factors, values)) for values in every]
    arms = [_arm(question, c, tuple(f.label(v) for f, v in c.items())) for c in combined]
    arms = [arm for arm in arms if arm.runs + arm.missing]
    return sorted(arms, key=lambda arm: -question.sign * _value(arm, question))


def cautions(question: Question) -> list[str]:
    """What must be known before any of it is believed."""
    study, notes = question.study, []
    if study.seeds < FEW_SEEDS:
        count = "ONE SEED" if study.seeds == 1 else f"ONLY {study.seeds} SEEDS"
        if not study.searched:
            notes.append(
                f"{count}: nothing here can be told from chance. No intervals and no tests are "
                f"given; run at least {FEW_SEEDS} seeds, better 8 (seed='range(8)')."
            )
    status = study.runs.status.value_counts()
    if lost := status.get("diverged", 0):
        notes.append(
            f"{lost} of {len(study.runs)} runs diverged. Each counts as worse than every run that "
            "did not; an aggregate of which a quarter or more diverged may be infinitely bad."
        )
    if missing := len(study.runs) - lost - status.get("finished", 0):
        notes.append(
            f"{missing} of {len(study.runs)} runs failed or have not ended. They are left out, "
            "with their partners in paired comparisons; if they are not missing by chance, what "
            "is left is biased."
        )
    return [*notes, *_thin(question), *_mixed(study)]


def _thin(question: Question) -> list[str]:
    """Combinations that were left with few seeds, in a sweep that has enough."""
    study = question.study
    if study.seeds < FEW_SEEDS or not study.factors:
        return []
    seeds = (~np.isnan(question.scores())).sum(axis=0)
    if not (thin := int((seeds < FEW_SEEDS).sum())):
        return []
    return [
        f"{thin} of {seeds.size} combinations of settings have fewer than {FEW_SEEDS} seeds that "
        "ended: too few for an interval of their own, and the averages over them lean on the rest."
    ]


def _mixed(study: Study) -> list[str]:
    """Runs of different programs or machines, or of different tasks, put side by side."""
    notes = []
    ended = [job.summary for job in study.jobs if job.summary]
    names = ("versions", "platform", "device_kind", "git_commit")
    mixed = [k for k in names if len({repr(s.get(k)) for s in ended}) > 1]
    if mixed:
        words = ", ".join(k.replace("_", " ") for k in mixed)
        notes.append(f"Not all runs were made by the same program on the same machine: {words}.")
    if any(f.key == "task" for f in study.factors):
        notes.append("Scores of different tasks may have different units.")
    return notes


def _arm(question: Question, values: dict[Factor, object], names: tuple[str, ...]) -> Arm:
    study = question.study
    mine = study.mask(values)
    status = study.runs.status[mine]
    lost = int((status == "diverged").sum())
    ended = int((status == "finished").sum()) + lost
    numbers: dict[str, Estimate | None] = {}
    for column in dict.fromkeys((question.column, *BESIDE)):
        worst = math.nan
        if column == question.column or column in ("exact/gap_share",):
            worst = math.inf if lower_is_better(column) else -math.inf
        if column not in study.runs:
            numbers[column] = None
            continue
        x = at(study, study.tensor(study.scores(column, worst)), values)
        numbers[column] = aggregate(x, study.blocks)
    label = ", ".join(f"{f.name} {n}" for f, n in zip(values, names))
    return Arm(label or "all runs", names, ended, lost, int(mine.sum()) - ended, numbers)


def _value(arm: Arm, question: Question) -> float:
    found = arm.numbers[question.column]
    return -math.inf * question.sign if found is None else found.value
