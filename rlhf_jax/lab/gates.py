"""What the card must show: thresholds of the settings, held against its rows."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np

from rlhf_jax.config import CardConfig
from rlhf_jax.report.stats import Estimate, estimate

Row = dict[str, Any]


def judge(
    config: CardConfig, rows: Sequence[Row], errors: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Every gate whose cells were asked for, with what was wanted and found.

    Cells in `errors` are missed: a card must not pass because what it was to judge failed.
    """
    broken = [*controls(config, rows), *mispriced(config, rows)]
    gates = [*reach(config, rows), *own(config, rows), *broken, envelope(rows)]
    wanted = {"name": "every cell was run", "wanted": "no errors"}
    found = ", ".join(sorted(errors)) or "none failed"
    return [*gates, wanted | {"found": found, "passed": not errors}]


def reach(config: CardConfig, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Trainers that must come to the optimum, and whose policies must say so by beta_eff."""
    gates = config.gates
    for algo in gates.reach:
        chosen = of(rows, gates.task, algo)
        if not chosen:
            continue
        gap = last(chosen, "gap_share")
        wanted = f"share of the gap left: upper end below {gates.gap_share:g}"
        name = f"{algo} reaches the optimum on {gates.task}"
        yield gate(name, wanted, gap, gap.high < gates.gap_share)
        error, fit, found = price(chosen)
        passed = error.high < gates.beta_error and fit.low > gates.beta_r2
        wanted = f"error of beta_eff: upper end below {gates.beta_error:g}"
        wanted += f"; R2: lower end above {gates.beta_r2:g}"
        name = f"{algo} on {gates.task} optimised what it was asked to"
        yield {"name": name, "wanted": wanted, "found": found, "passed": bool(passed)}


def price(rows: Sequence[Row]) -> tuple[Estimate, Estimate, str]:
    """Error of the price that policies behave by, how well it fits, and both as text."""
    error = aggregate(rows, [beta_error(row) for row in rows])
    fit = aggregate(rows, [row["beta_r2"] or 0.0 for row in rows])
    found = f"{error.value:.3f} [{error.low:.3f}, {error.high:.3f}]"
    found += f", R2 {fit.value:.4f} [{fit.low:.4f}, {fit.high:.4f}]"
    return error, fit, found


def beta_error(row: Row) -> float:
    """Relative error of the price a policy behaves by; infinite where it has none."""
    return np.inf if row["beta_eff"] is None else abs(row["beta_eff"] / row["beta"] - 1)


def own(config: CardConfig, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Trainers that lead elsewhere, held to their predicted fixed points."""
    for name in config.gates.own:
        algo, _, task = name.partition("/")
        chosen = of(rows, task, algo)
        if not chosen:
            continue
        if any(row["own_gap_share"] is None for row in chosen):
            name = f"{algo} reaches its own fixed point on {task}"
            found = "none was predicted for these settings"
            yield {
                "name": name,
                "wanted": "a predicted fixed point",
                "found": found,
                "passed": False,
            }
            continue
        gap, tilt = last(chosen, "own_gap_share"), last(chosen, "gap_share")
        wanted = f"distance to its own fixed point: upper end below {config.gates.gap_share:g}"
        passed = gap.high < config.gates.gap_share
        found = gate(f"{algo} reaches its own fixed point on {task}", wanted, gap, passed)
        yield found | {"found": f"{found['found']}; to the tilt {tilt.value:.3f}"}


def controls(config: CardConfig, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Trainers broken on purpose: a card that lets them pass proves nothing."""
    limit = config.gates.gap_share
    for name in config.gates.controls:
        algo, _, task = name.partition("/")
        chosen = of(rows, task, algo)
        if chosen:
            gap = last(chosen, "gap_share")
            wanted = f"negative control: lower end above {limit:g}"
            missed = limit < gap.low and gap.value < np.inf  # by learning, not by breaking down
            yield gate(f"{algo} misses the optimum on {task}", wanted, gap, missed)


def mispriced(config: CardConfig, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    """Trainers told another price on purpose: they must be found out by beta_eff."""
    gates = config.gates
    for name in gates.mispriced:
        algo, _, task = name.partition("/")
        chosen = of(rows, task, algo)
        if chosen:
            error, fit, found = price(chosen)
            seen = gates.beta_error < error.low and error.value < np.inf
            wanted = f"negative control: error of beta_eff above {gates.beta_error:g}, R2 as above"
            name = f"{algo} is seen on {task} to have another price"
            passed = bool(seen and fit.low > gates.beta_r2)
            yield {"name": name, "wanted": wanted, "found": found, "passed": passed}


def envelope(rows: Sequence[Row]) -> dict[str, Any]:
    """No point of any run above the best reward there is at its KL."""
    above = sum(row["above_envelope"] for row in rows)
    points = sum(len(row["gap_share"]) for row in rows)
    found = f"{above} of {points} points"
    name = "no policy is above the Gibbs envelope"
    return {"name": name, "wanted": "0 points", "found": found, "passed": above == 0}


def of(rows: Sequence[Row], task: str, algo: str) -> list[Row]:
    """The rows of a cell."""
    return [row for row in rows if (row["task"], row["algo"]) == (task, algo)]


def last(rows: Sequence[Row], curve: str) -> Estimate:
    """IQM of where a curve ends; a run that diverged counts as infinite."""
    ends = [row[curve][-1] for row in rows]
    return aggregate(rows, [np.inf if x is None else x for x in ends])


def aggregate(rows: Sequence[Row], values: Sequence[float]) -> Estimate:
    """IQM over instances and seeds with its interval."""
    strata: dict[int, list[float]] = {}
    for row, value in zip(rows, values):
        strata.setdefault(row["instance"], []).append(value)
    return estimate([np.asarray(x, float) for x in strata.values()], diverged=np.inf)


def gate(name: str, wanted: str, found: Estimate, passed: Any) -> dict[str, Any]:
    """A gate on one number."""
    text = f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]"
    return {"name": name, "wanted": wanted, "found": text, "passed": bool(passed)}
