"""The report of a sweep: one page that says what each setting did, and how sure that is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from rich.console import Console
from rich.table import Table
from rich.text import Text

from rlhf_jax.io.atomic import replacing
from rlhf_jax.io.console import short_number, short_time
from rlhf_jax.report.card_numbers import FEW_SEEDS
from rlhf_jax.report.names import describe, labelled
from rlhf_jax.report.stats import LEVEL, REPS
from rlhf_jax.report.sweep_answers import answers
from rlhf_jax.report.sweep_arms import BESIDE, arms_of
from rlhf_jax.report.sweep_cautions import cautions, scope
from rlhf_jax.report.sweep_curves import frontier, matched
from rlhf_jax.report.sweep_factors import shown
from rlhf_jax.report.sweep_page import differing, pictures, provenance, ranked, samples
from rlhf_jax.report.sweep_question import Question, p_value, told, written
from rlhf_jax.report.sweep_study import Study, outcome, read_study
from rlhf_jax.report.sweep_together import interactions, main_effects

PAGE = Path("report") / "index.html"
COMPARISON = Path("report") / "comparison.html"  # so that a sweep's own page stays
TERMINAL_ROWS = 12
MOST_TOLD = 12  # comparisons; of more the page begins with those that found something


def write_report(
    dirs: Sequence[str | os.PathLike[str]],
    metric: str | None = None,
    out: str | os.PathLike[str] | None = None,
    console: Console | None = None,
) -> Path:
    """Writes the page, and `results.csv` and `curves.parquet` of each sweep.

    Args:
      dirs: sweep directories; more than one are reported together.
      metric: the final number that counts, as in `summary.json`; default: the sweep's objective, or
        where no run has it gold, else the score trained on.
      out: the page; default: `report/index.html` of the sweep, of several `report/comparison.html`
        of the first.
      console: where to print what `print_summary` does as well; default: nowhere.

    Returns:
      The page's path.

    Raises:
      FileNotFoundError: a directory is missing or holds no jobs.
      ValueError: no run has the metric; a directory is given twice or holds several sweeps.
    """
    paths = [Path(path) for path in dirs]
    question = _question(paths, metric)
    page = render(question)
    path = Path(out) if out else paths[0] / (PAGE if len(paths) == 1 else COMPARISON)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    if console:
        _summarize(question, console)
    return path


def print_summary(
    dirs: Sequence[str | os.PathLike[str]],
    metric: str | None = None,
    console: Console | None = None,
) -> None:
    """Prints what a sweep came to: a line for each value of each factor, and what was found.

    Raises:
      FileNotFoundError, ValueError: as `write_report`.
    """
    _summarize(_question([Path(path) for path in dirs], metric), console or Console())


def _question(paths: Sequence[Path], metric: str | None) -> Question:
    study = read_study(paths)
    return Question(study, outcome(study, metric))


def _summarize(question: Question, console: Console) -> None:
    study = question.study
    for note in cautions(question):
        console.print(Text(note, style="bold yellow"))
    if study.searched:
        console.print(_best_table(question))
        return
    table = Table("", f"{question.label} (IQM)", "KL", "runs", title=title(study))
    for factor in study.factors or (None,):
        for arm in arms_of(question, factor):
            found, kl = arm.numbers[question.column], arm.numbers["after/objective/kl"]
            numbers = [" ".join(told(e, e.runs if e else 0)) for e in (found, kl)]
            table.add_row(arm.label, *numbers, str(arm.runs))
    console.print(table)
    for line in _told(question):
        console.print(Text(f"- {line}"))


def _told(question: Question) -> list[str]:
    """What was found, or that nothing was; how many comparisons the page has beside."""
    found = answers(question)
    lines = [a.sentence for a in ([a for a in found if a.found.sure] or found)[:TERMINAL_ROWS]]
    more = len(found) - len(lines)
    return lines + [f"{more} further comparison{'s' * (more > 1)} on the page."] * (more > 0)


def render(question: Question) -> str:
    """The page as text."""
    study = question.study
    text = (files("rlhf_jax.report") / "sweep.html.jinja").read_text(encoding="utf-8")
    world = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    world.filters |= {"cell": told, "written": written, "p": p_value, "time": short_time}
    world.filters |= {"full": repr, "shown": shown, "number": short_number, "labelled": labelled}
    found = None if study.searched else frontier(study)
    effects = main_effects(question)
    return world.from_string(text).render(
        q=question,
        study=study,
        title=title(study),
        cautions=cautions(question),
        scope=scope(study),
        unpaired=[f.name for f in study.factors if f not in effects],
        answers=answers(question),
        by_factor={f: arms_of(question, f) for f in study.factors},
        combined=arms_of(question, None) if len(study.factors) != 1 else [],
        columns=columns(question),
        interactions=interactions(question),
        pictures=pictures(question, found, effects),
        frontier=found,
        matched=matched(study, found) if found else [],
        samples=samples(question),
        ranked=ranked(question),
        origin=provenance(study),
        few=FEW_SEEDS,
        level=f"{100 * LEVEL:.0f} %",
        reps=REPS,
        most=MOST_TOLD,
        differing=lambda job: differing(study.jobs[0], job),
    )


def title(study: Study) -> str:
    """What was varied, in a line."""
    if study.searched:
        return f"Search over {', '.join(f.name for f in study.searched)}"
    return (
        " \N{MULTIPLICATION SIGN} ".join(f.name for f in study.factors) or "One setting, repeated"
    )


def columns(question: Question) -> dict[str, tuple[str, str]]:
    """Names and units of the numbers told of every arm that any run has."""
    names = [n for n in dict.fromkeys((question.column, *BESIDE)) if n in question.study.runs]
    told = {name: describe(name.removeprefix("after/")) for name in names}
    return {name: (quantity.label, quantity.unit) for name, quantity in told.items()}


def _best_table(question: Question) -> Table:
    """The best trials of a search."""
    knobs = [f.key for f in question.study.searched]
    table = Table("job", *knobs, question.label, title=title(question.study))
    for row in ranked(question)[:TERMINAL_ROWS]:
        values: list[Any] = [row["job"], *(row["settings"].get(k) for k in knobs), row["score"]]
        table.add_row(*(shown(v) for v in values))
    return table
