"""What must be known before a sweep's answers are believed."""

from __future__ import annotations

import numpy as np

from rlhf_jax.report.card_numbers import FEW_SEEDS
from rlhf_jax.report.results import SUPERVISED
from rlhf_jax.report.sweep_outcome import (
    OBJECTIVE,
    direction,
    lower_is_better,
    objective,
    objectives,
)
from rlhf_jax.report.sweep_question import Question
from rlhf_jax.report.sweep_study import Study

STAGE_SEED = "stage_seed"  # of the supervised and the reward model; null: as `seed`


def cautions(question: Question) -> list[str]:
    """A sentence or two for each thing that is not as it should be, the gravest first."""
    study = question.study
    return [
        *_few(study),
        *_lost(study),
        *_thin(question),
        *_other_objective(question),
        *_stages(study),
        *_mixed(study),
    ]


def scope(study: Study) -> str:
    """What the intervals do not hold, because no run differs in it; empty if there is nothing."""
    one = len(_stage_seeds(study)) == 1 and study.seeds > 1 and not study.searched
    if not one or not _has_stages(study):
        return ""
    return (
        "All runs start from one supervised model and learn from one reward model (one stage "
        "seed): the intervals hold the chance of the training after them, not that of these two. "
        "Other models may give other answers; without stage_seed each seed trains its own."
    )


def _few(study: Study) -> list[str]:
    """Seeds that have ended, not those that were planned."""
    if not study.ended.any():
        return ["NO RUN HAS ENDED WITH A NUMBER: there is nothing to compare yet."]
    if study.seeds >= FEW_SEEDS or study.searched:
        return []
    count = "ONE SEED" if study.seeds == 1 else f"ONLY {study.seeds} SEEDS"
    if study.planned > study.seeds:
        count += f" OF {study.planned} {'HAS' if study.seeds == 1 else 'HAVE'} ENDED"
    return [
        f"{count}: nothing here can be told from chance. No intervals and no tests are given; run "
        f"at least {FEW_SEEDS} seeds, better 8 (seed='range(8)')."
    ]


def _lost(study: Study) -> list[str]:
    """Runs without a number."""
    notes, status = [], study.runs.status.value_counts()
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
    return notes


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


def _other_objective(question: Question) -> list[str]:
    """An objective that was not measured, or that a search took the wrong way round."""
    study, wanted = question.study, objectives(question.study.jobs)
    if not study.ended.any():
        return []
    if len(wanted) > 1:
        return [
            f"The sweeps have different objectives ({', '.join(wanted)}); all are judged by "
            f"{question.column.removeprefix('after/')} here. --metric chooses."
        ]
    own, looked = objective(study.jobs, study.runs), direction(study.jobs)
    meant = any(OBJECTIVE in job.typed or job.suggested for job in study.jobs)
    if wanted and own is None and meant:
        return [
            f"The sweep's objective, {wanted[0]}, was not measured in any run: what counts here "
            f"is {question.column.removeprefix('after/')}."
        ]
    if own and looked == "maximize" and lower_is_better(own):
        return [f"The search maximised {wanted[0]}, of which less is better."]
    return []


def _stages(study: Study) -> list[str]:
    """Seeds that share a supervised and a reward model with some others."""
    different = len(_stage_seeds(study))
    if not 1 < different < len(study.units) or study.searched or not _has_stages(study):
        return []
    return [
        f"{len(study.units)} repetitions share {different} supervised and reward models (stage "
        "seeds). They are taken for independent, which runs with the same two are not: intervals "
        "and p are too sure of what depends on these models."
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


def _stage_seeds(study: Study) -> set[object]:
    """Of the models trained before the policy."""
    found = set()
    for job in study.jobs:
        own = job.config.get(STAGE_SEED)
        found.add(job.config.get("seed") if own is None else own)
    return found


def _has_stages(study: Study) -> bool:
    return any(set(job.summary.get("stages") or {}) & set(SUPERVISED) for job in study.jobs)
