"""Parts of a sweep's page that are no statistics: pictures, texts, and where runs came from."""

from __future__ import annotations

import base64
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from rlhf_jax.io.jsonl import read_rows
from rlhf_jax.report import style
from rlhf_jax.report.sweep_compare import Difference
from rlhf_jax.report.sweep_curves import Frontier, curves_of, facet
from rlhf_jax.report.sweep_factors import Factor
from rlhf_jax.report.sweep_jobs import Job
from rlhf_jax.report.sweep_lines import draw_curves, draw_frontier
from rlhf_jax.report.sweep_plots import (
    draw_effects,
    draw_interaction,
    draw_search,
    draw_sensitivity,
)
from rlhf_jax.report.sweep_question import Question
from rlhf_jax.report.sweep_study import Study

THROUGH_TRAINING = (
    "objective/kl",
    "policy/entropy_avg",
    "tokens/completion_length",
    "exact/gap_share",
)
TEXTS = 5
PIXELS = 83  # an inch of a figure on the page: three panels beside each other
Pictures = dict[str, list[dict[str, Any]]]
Effects = Mapping[Factor, Sequence[Difference]]


def pictures(question: Question, found: Frontier | None, effects: Effects) -> Pictures:
    """Every picture by its section, each a PNG in base64 with its width on the page."""
    study = question.study
    curved = () if study.searched else study.factors or (None,)
    numeric = [f for f in study.factors if f.numeric and len(f.values) > 1]
    pairs = [(a, b) if a.numeric or not b.numeric else (b, a) for a, b in _pairs(study)]
    figures = {
        "effects": [draw_effects(question, effects)] if effects else [],
        "interactions": [draw_interaction(question, a, b) for a, b in pairs],
        "sensitivity": [draw_sensitivity(question, f) for f in numeric],
        "search": [draw_search(question, f) for f in study.searched],
        "frontier": list(_frontiers(study, found)) if found else [],
    }
    made = {name: [inlined(figure) for figure in drawn] for name, drawn in figures.items()}
    return made | {f"curves {f.key if f else ''}": _training(question, f) for f in curved}


def inlined(figure: Figure) -> dict[str, Any]:
    """A figure as it stands in a page."""
    stream = io.BytesIO()
    figure.savefig(stream, dpi=style.DPI, format="png")
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    name = next((axes.get_title(loc="left") for axes in figure.axes), "")
    return {"data": data, "width": round(PIXELS * figure.get_size_inches()[0]), "name": name}


def ranked(question: Question) -> list[dict[str, Any]]:
    """Every run, the best first and those without a score last: its number, settings and fate."""
    study = question.study
    scores = study.scores(question.column)
    keys = [f.key for f in (*study.factors, *study.searched)]
    rows = [
        {
            "job": f"{job.number}" if len(study.directories) == 1 else f"{sweep}/{job.number}",
            "status": job.status,
            "error": job.error,
            "unit": unit,
            "settings": {k: job.setting(k) if k != "sweep" else sweep for k in keys},
            "score": None if math.isnan(score) else float(score),
            "config": job.config,
            "typed": job.typed,
            "path": str(job.path),
            "place": i,
        }
        for i, (job, sweep, unit, score) in enumerate(
            zip(study.jobs, study.runs.sweep, study.runs.unit, scores)
        )
    ]
    best = -question.sign
    return sorted(rows, key=lambda r: math.inf if r["score"] is None else best * r["score"])


def samples(question: Question) -> list[dict[str, Any]]:
    """Completions of the best, the median and the worst run that ended."""
    rows = [r for r in ranked(question) if r["score"] is not None]
    if not rows:
        return []
    places = {"best": 0, "median": len(rows) // 2, "worst": len(rows) - 1}
    chosen = {place: name for name, place in reversed(places.items())}
    found = [_texts(question.study.jobs[rows[p]["place"]]) for p in chosen]
    told = [rows[p] | {"name": n, "texts": t} for (p, n), t in zip(chosen.items(), found)]
    return [row for row in sorted(told, key=lambda r: ("best", "median", "worst").index(r["name"]))]


def differing(first: Job, job: Job) -> list[tuple[str, str]]:
    """The settings of a job that are not those of the first, as text."""
    keys = dict.fromkeys((*job.config, *first.config))
    pairs = {
        key: [repr(j.config[key]) if key in j.config else "-" for j in (first, job)] for key in keys
    }
    return [(key, mine) for key, (other, mine) in pairs.items() if mine != other]


def provenance(study: Study) -> dict[str, Any]:
    """What ran, on what, for how long, and what was compiled."""
    ended = [job.summary for job in study.jobs if job.summary]
    facts = next((r["facts"] for r in study.records if r.get("facts")), ended[0] if ended else {})
    stages = [s.get("stages") or {} for s in ended]
    compiled = [v.get("compile_seconds") or 0 for s in stages for v in s.values()]
    return {
        "facts": facts,
        "versions": facts.get("versions") or {},
        "commands": [r["command"] for r in study.records if r.get("command")],
        "begun": [r["begun"] for r in study.records if r.get("begun")],
        "seconds": sum(r.get("seconds") or 0 for r in study.records),
        "run_seconds": sum(s.get("seconds") or 0 for s in ended),
        "compile_seconds": sum(compiled),
        "groups": [g for r in study.records for g in r.get("groups") or ()],
        "statuses": dict(study.runs.status.value_counts()),
        "mixed": _changing(study),
    }


def _training(question: Question, factor: Factor | None) -> list[dict[str, Any]]:
    """Outcome, KL, entropy and length through training, by one factor or of all runs."""
    names = dict.fromkeys((_logged(question), *THROUGH_TRAINING))
    found = {name: curves_of(question.study, name) for name in names if name}
    return [
        inlined(draw_curves(question.study, factor, name, curves))
        for name, curves in found.items()
        if curves is not None and _moves(curves.y)
    ]


def _frontiers(study: Study, found: Frontier) -> Iterator[Figure]:
    """One by each factor, apart for the values of another that decides how far runs go."""
    for factor in study.factors or (None,):
        other = facet(study, found, factor)
        for value in other.values if other else ((),):
            yield draw_frontier(study, factor, found, {other: value} if other else {})


def _logged(question: Question) -> str | None:
    """The outcome as it is called through training."""
    logged = set(question.study.tuned()["metric"])
    names = (question.column.removeprefix("after/"), "gold/score", "objective/scores")
    return next((n for n in names if n in logged), None)


def _moves(y: np.ndarray) -> bool:
    """Whether there is anything to see: completions of one letter all have the same length."""
    return bool(np.nanmax(y) > np.nanmin(y))


def _pairs(study: Study) -> list[tuple[Any, Any]]:
    return list(itertools.combinations(study.factors, 2))


def _texts(job: Job) -> list[dict[str, Any]]:
    """A few prompts with what was written before and after training, one of each prompt."""
    rows = {str(row.get("prompt")): row for row in read_rows(job.path / "samples.jsonl")}
    return list(rows.values())[:TEXTS]


def _changing(study: Study) -> dict[str, list[str]]:
    """Versions and machines in which runs differ, with all their values."""
    ended = [job.summary for job in study.jobs if job.summary]
    names = ("git_commit", "platform", "device_kind", "cores", "system", "versions")
    values = {n: list(dict.fromkeys(str(s.get(n)) for s in ended)) for n in names}
    return {name: found for name, found in values.items() if len(found) > 1}
