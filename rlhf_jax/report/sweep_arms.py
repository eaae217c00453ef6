"""A line for each arm of a sweep."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from rlhf_jax.report.stats import Estimate
from rlhf_jax.report.sweep_aggregate import aggregate
from rlhf_jax.report.sweep_factors import Factor
from rlhf_jax.report.sweep_question import Question, at

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


def _arm(question: Question, values: dict[Factor, object], names: tuple[str, ...]) -> Arm:
    study = question.study
    mine = study.mask(values)
    status = study.runs.status[mine]
    lost = int((status == "diverged").sum())
    ended = int((status == "finished").sum()) + lost
    numbers: dict[str, Estimate | None] = {}
    for column in dict.fromkeys((question.column, *BESIDE)):
        worst = math.nan
        if column == question.column:
            worst = -math.inf * question.sign
        elif column == "exact/gap_share":
            worst = math.inf
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
