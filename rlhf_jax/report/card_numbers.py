"""The numbers of a report card: from `card.json` to a line for each task and algorithm."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.io.console import short_number
from rlhf_jax.report.names import algorithm
from rlhf_jax.report.stats import Estimate, estimate

Row = Mapping[str, Any]
Card = Mapping[str, Any]
FEW_SEEDS = 3
PARTS = ("facts", "settings", "rows", "envelopes", "gates")
KINDS = ("trained", "calibration")


class Metric(NamedTuple):
    """A column: how a run's number is read, and what a run that diverged counts as."""

    label: str
    read: Callable[[Row], Any]
    diverged: float | None = None  # None: as any other, by its own number


METRICS = {
    "gap": Metric("gap", lambda run: run["gap_share"][-1], math.inf),
    "own_gap": Metric("gap to own aim", lambda run: _last(run["own_gap_share"]), math.inf),
    "beta_error": Metric("error of β_eff", lambda run: abs(_beta_ratio(run) - 1), math.inf),
    "beta_ratio": Metric("β_eff / β", lambda run: _beta_ratio(run), math.inf),
    "beta_r2": Metric("R²", lambda run: run["beta_r2"], -math.inf),
    "kl_efficiency": Metric("KL efficiency", lambda run: run["kl_efficiency"], -math.inf),
    "value_error": Metric("value error", lambda run: run["value_error"], math.inf),
    "gradient_cosine": Metric("gradient cosine", lambda run: run["gradient_cosine"], -math.inf),
    "seconds": Metric("seconds", lambda run: run["seconds"]),
}


def load_card(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads and checks `card.json`.

    Raises:
      FileNotFoundError: there is no `card.json`.
      ValueError: a part is missing, it has no runs, a run is of another kind than `KINDS`, or its
        curves are not as long as its `budgets`.
    """
    card = json.loads((Path(directory) / "card.json").read_text(encoding="utf-8"))
    missing = [name for name in PARTS if name not in card]
    if missing:
        raise ValueError(f"card.json lacks {', '.join(missing)}")
    if not card["rows"]:
        raise ValueError("card.json has no runs: `rows` is empty")
    for run in card["rows"]:
        _check(run, len(run["budgets"]))
    return card


def table(card: Card) -> list[dict[str, Any]]:
    """A line for each task and algorithm: what its runs come to at the last budget.

    Args:
      card: as from `load_card`.

    Returns:
      Tasks in their order, in each the trained algorithms by their gap and then the calibration:
      `task`, `algo`, `kind`, `budget` (the largest), `instances`, `seeds` (the fewest of an
      instance), `runs`, `not_finite` (runs without a final gap), `above_envelope` (evaluated
      points, all runs), and each of
      `METRICS` as an `Estimate`, an interquartile mean with its 95 % stratified bootstrap interval
      over instances and seeds; None where no run has one. A run without a final gap counts as the
      worst in every column; a number that is undefined for other runs is not counted, which
      `Estimate.runs` shows.
    """
    found = [_line(*key, group) for key, group in grouped(card).items()]
    tasks = list(dict.fromkeys(line["task"] for line in found))

    def place(line: dict[str, Any]) -> tuple[int, int, float]:
        trained = line["kind"] == KINDS[0]
        return tasks.index(line["task"]), not trained, line["gap"].value if trained else 0.0

    return sorted(found, key=place)


def grouped(card: Card) -> dict[tuple[str, str, str], list[Row]]:
    """Runs by task, kind and algorithm, in the order they appear."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for run in card["rows"]:
        groups.setdefault((run["task"], run["kind"], run["algo"]), []).append(run)
    return groups


def gap_at(runs: Sequence[Row], place: int) -> Estimate:
    """The gap's IQM at one of the budgets; a run that has none there counts as infinitely bad."""
    gaps = [(run["instance"], number(run["gap_share"][place])) for run in runs]
    return estimate(_by_instance(gaps), diverged=math.inf)


def aggregate(runs: Sequence[Row], metric: Metric) -> Estimate | None:
    """A number's IQM over instances and seeds; None if no run has it."""
    values, defined = [], False
    for run in runs:
        lost = metric.diverged is not None and not finite(run)
        value = math.nan if lost else number(metric.read(run))
        defined |= math.isfinite(value)
        if lost or math.isfinite(value):
            values.append((run["instance"], value))
    return estimate(_by_instance(values), diverged=metric.diverged) if defined else None


def finite(run: Row) -> bool:
    """Whether a run ended with a finite gap."""
    return math.isfinite(number(run["gap_share"][-1]))


def number(value: Any) -> float:
    """A number as read from JSON; null, or what is no number, is nan."""
    return float(value) if isinstance(value, int | float) else math.nan


def cautions(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a reader must know before believing any of it."""
    trained = [line for line in lines if line["kind"] == KINDS[0]]
    few = [line for line in trained if line["seeds"] < FEW_SEEDS]
    lost = [line for line in lines if line["not_finite"]]
    above = [line for line in lines if line["above_envelope"]]
    notes = []
    if few:
        fewest = min(line["seeds"] for line in few)
        notes.append(
            f"FEWER THAN {FEW_SEEDS} SEEDS (down to {fewest} for an instance): these intervals "
            f"say almost nothing about other seeds. {_names(few)}."
        )
    if lost:
        count = sum(line["not_finite"] for line in lost)
        notes.append(
            f"{count} run{'s' * (count > 1)} ended without a finite gap, which counts as "
            f"infinitely bad: {_names(lost)}."
        )
    if above:
        count = sum(line["above_envelope"] for line in above)
        notes.append(
            f"Evaluated points above the Gibbs envelope, where no policy can be: {count}. "
            f"Something is measured wrongly. {_names(above)}."
        )
    return notes


def cell(found: Estimate | None, runs: int) -> tuple[str, str]:
    """An aggregate of some of the runs, and its interval, with the digits the interval allows.

    >>> cell(Estimate(0.004123, 0.003512, 0.004781, 32), 32), cell(None, 32)
    (('0.0041', '[0.0035, 0.0048]'), ('-', ''))
    """
    if found is None:
        return "-", ""
    partly = "" if found.runs == runs else f"of {found.runs} runs"
    if math.isnan(found.low):
        return _written(found.value), partly
    width = found.high - found.low
    digits = -math.floor(math.log10(width / 4)) if 0 < width < math.inf else 99
    value, low, high = (_written(x, digits) for x in found[:3])
    return value, f"[{low}, {high}] {partly}".strip()


def task_name(task: str) -> str:
    """A task's name in print."""
    return task.replace("_", " ")


def _line(task: str, kind: str, algo: str, runs: Sequence[Row]) -> dict[str, Any]:
    seeds = [sum(run["instance"] == i for run in runs) for i in {r["instance"] for r in runs}]
    line = {"task": task, "algo": algo, "kind": kind, "instances": len(seeds), "seeds": min(seeds)}
    line |= {"budget": max(run["budgets"][-1] for run in runs)}
    line |= {"runs": len(runs), "not_finite": sum(not finite(run) for run in runs)}
    line |= {"above_envelope": sum(run["above_envelope"] or 0 for run in runs)}
    line |= {name: aggregate(runs, metric) for name, metric in METRICS.items()}
    return line | {"gap": gap_at(runs, -1)}


def _by_instance(values: Iterable[tuple[Any, float]]) -> list[np.ndarray]:
    strata: dict[Any, list[float]] = {}
    for instance, value in values:
        strata.setdefault(instance, []).append(value)
    return [np.array(scores) for scores in strata.values()]


def _check(run: Row, budgets: int) -> None:
    name = f"{run['task']}, {run['algo']}, instance {run['instance']}, seed {run['seed']}"
    if run["kind"] not in KINDS:
        raise ValueError(f"{name}: kind is one of {', '.join(KINDS)}, not {run['kind']!r}")
    for curve in ("gap_share", "own_gap_share", "reward", "kl"):
        if run[curve] is not None and len(run[curve]) != budgets:
            raise ValueError(f"{name}: {curve} has {len(run[curve])} numbers for {budgets} budgets")


def _last(curve: Sequence[Any] | None) -> Any:
    return curve[-1] if curve else None


def _beta_ratio(run: Row) -> float:
    return number(run["beta_eff"]) / run["beta"]


def _names(lines: Sequence[Mapping[str, Any]]) -> str:
    """The algorithms of some lines by task."""
    tasks: dict[str, list[str]] = {}
    for line in lines:
        tasks.setdefault(task_name(line["task"]), []).append(algorithm(line["algo"]))
    return "; ".join(f"{task}: {', '.join(names)}" for task, names in tasks.items())


def _written(value: float, digits: int = 99) -> str:
    if not math.isfinite(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:.{max(digits, 0)}f}" if digits <= 6 else short_number(value)
