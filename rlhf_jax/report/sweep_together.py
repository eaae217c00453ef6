"""The factors of a sweep alone and together: main effects and interactions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.report.sweep_compare import Difference, compare, contrast, corrected
from rlhf_jax.report.sweep_factors import Factor
from rlhf_jax.report.sweep_question import Question, at, written

MOST_CONTRASTS = 36  # for each two factors; with more values only their ends are compared


class Interaction(NamedTuple):
    """How two factors act together: the effect of one at each value of the other."""

    first: str
    second: str
    rows: list[tuple[str, Difference]]
    sentence: str


def main_effects(question: Question) -> dict[Factor, list[Difference]]:
    """How far each value of a factor lies from the mean of all its values.

    Without factors whose values share no seeds: a seed's part of the mean is not known.
    """
    study, x = question.study, _finite_scores(question)
    found = {}
    for factor in study.factors:
        levels = np.stack([at(study, x, {factor: v}) for v in factor.values])
        away = levels - levels.mean(axis=0)
        if not np.isnan(away).all():
            found[factor] = [contrast(question.sign * part, study.blocks) for part in away]
    return found


def interactions(question: Question) -> list[Interaction]:
    """For each two factors: is the effect of one the same at all values of the other?"""
    two = list(itertools.combinations(question.study.factors, 2))
    return [_interaction(question, _finite_scores(question), *pair) for pair in two]


def _finite_scores(question: Question) -> np.ndarray:
    x = question.scores()
    return np.where(np.isinf(x), question.worst(), x)


def _interaction(question: Question, x: np.ndarray, f: Factor, g: Factor) -> Interaction:
    study, sign = question.study, question.sign
    pairs = list(itertools.product(_steps(f), _steps(g)))
    if len(pairs) > MOST_CONTRASTS:
        pairs = [((f.values[0], f.values[-1]), (g.values[0], g.values[-1]))]

    def part(a: object, b: object) -> np.ndarray:
        return sign * at(study, x, {f: a, g: b})

    def change(a: object, b: object, c: object, d: object) -> Difference:
        far, near = part(b, d) - part(a, d), part(b, c) - part(a, c)
        found = compare(far, near, study.blocks)
        if not found.estimate.runs:  # the values of f have no seeds in common: the same otherwise
            found = compare(part(b, d) - part(b, c), part(a, d) - part(a, c), study.blocks)
        return found._replace(probability=math.nan)

    found = corrected([change(a, b, c, d) for (a, b), (c, d) in pairs])
    names = [
        f"{f.name} {f.label(a)} to {f.label(b)}, at {g.name} {g.label(d)} against {g.label(c)}"
        for (a, b), (c, d) in pairs
    ]
    rows = sorted(zip(names, found), key=lambda row: -abs(row[1].estimate.value))
    return Interaction(f.name, g.name, rows, _acting(question, f, g, rows))


def _steps(factor: Factor) -> Sequence[tuple[object, object]]:
    return list(itertools.combinations(factor.values, 2))


def _acting(q: Question, f: Factor, g: Factor, rows: Sequence[tuple[str, Difference]]) -> str:
    sure = [(name, d) for name, d in rows if d.sure]
    if all(math.isnan(d.p) for _, d in rows):
        return f"{f.name} and {g.name}: too few seeds, or too few combinations, to tell."
    if not sure:
        top = written(rows[0][1].estimate)
        return (
            f"{f.name} and {g.name}: that the effect of one depends on the other could not be "
            f"shown (largest contrast {top})."
        )
    name, found = sure[0]
    return (
        f"{f.name} and {g.name} act together. Clearest: from {name}, the {q.label} changes by "
        f"{written(found.estimate)} more ({len(sure)} of {len(rows)} contrasts differ from 0)."
    )
