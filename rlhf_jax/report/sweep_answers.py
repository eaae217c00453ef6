"""A sentence for each comparison of a sweep."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

from rlhf_jax.report.stats import Estimate
from rlhf_jax.report.sweep_compare import ALPHA, Difference, compare, corrected
from rlhf_jax.report.sweep_factors import Factor
from rlhf_jax.report.sweep_question import Question, at, p_value, written


class Answer(NamedTuple):
    """A comparison in numbers and in words."""

    factor: str
    better: str
    worse: str
    found: Difference  # of the first over the second
    sentence: str


def answers(question: Question) -> list[Answer]:
    """Each two values of each factor compared, with one correction over all of it."""
    study, x, worst = question.study, question.scores(), question.worst()
    pairs = [(f, *two) for f in study.factors for two in itertools.combinations(f.values, 2)]
    found = corrected(
        [
            compare(at(study, x, {f: a}), at(study, x, {f: b}), study.blocks, worst)
            for f, a, b in pairs
        ]
    )
    return [answer(question, f, a, b, d) for (f, a, b), d in zip(pairs, found)]


def answer(question: Question, f: Factor, a: object, b: object, found: Difference) -> Answer:
    """Says a comparison with the better arm first."""
    if found.estimate.value < 0:
        a, b, found = b, a, _turned(found)
    better, worse = f.label(a), f.label(b)
    return Answer(f.key, better, worse, found, _sentence(question, f, better, worse, found))


def _sentence(q: Question, f: Factor, better: str, worse: str, found: Difference) -> str:
    if not found.estimate.runs:
        return (
            f"{f.name} {better} and {worse} have too few seeds that ended, and share none: not "
            "compared."
        )
    amount = written(found.estimate)
    unit = f" {q.unit}" if q.unit else ""
    if math.isnan(found.p):
        seeds = f"{found.seeds} seed{'s' * (found.seeds > 1)}"
        return (
            f"{f.name} {better} came out {amount}{unit} better than {worse}, "
            f"but {seeds} cannot tell that from chance."
        )
    if not found.sure:
        return (
            f"{f.name} {better} and {worse} cannot be told apart with {found.seeds} "
            f"{'seeds' if found.paired else 'seeds each, not the same,'}{_doubt(found)}: "
            f"{better} came out {amount}{unit} better."
        )
    verb = f"has {amount}{unit} less {q.label}" if q.sign < 0 else f"scores {amount}{unit} more"
    often = f"{100 * found.probability:.0f} % of runs"
    tail = "" if found.clear else f", a small effect beside the spread of runs ({often} are better)"
    how = "" if found.paired else " (compared unpaired: they were run on different seeds)"
    return f"{f.name} {better} {verb} than {worse}{tail}{how}."


def _doubt(found: Difference) -> str:
    """Why a difference whose interval excludes 0 is not believed."""
    if found.estimate.low <= 0:
        return ""
    if found.p <= ALPHA:
        return f" once all comparisons are allowed for (p = {p_value(found.adjusted)})"
    return f" (p = {p_value(found.p)})"


def _turned(found: Difference) -> Difference:
    value, low, high, *rest = found.estimate
    estimate = Estimate(0.0 - value, 0.0 - high, 0.0 - low, *rest)
    return found._replace(estimate=estimate, probability=1 - found.probability)
