"""The final number a sweep is asked about: its own objective, unless another is asked for."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from rlhf_jax.report.sweep_jobs import Job

OBJECTIVE = "sweep.objective"  # the setting
OUTCOMES = ("after/gold/score", "after/objective/scores")  # where the objective was not measured
LOWER = ("gap", "gap_share", "source_gap", "source_gap_error", "kl_to_optimum", "above_envelope")
LOWER += ("loss", "heldout_loss")


def final_numbers(runs: pd.DataFrame) -> list[str]:
    """The columns of `results.csv` that can be asked about."""
    return [str(c) for c in runs if str(c).startswith(("after/", "exact/"))]


def objectives(jobs: Sequence[Job]) -> list[str]:
    """What the jobs' settings say they are for: one name, unless sweeps are compared."""
    return list(dict.fromkeys(str(j.config[OBJECTIVE]) for j in jobs if j.config.get(OBJECTIVE)))


def objective(jobs: Sequence[Job], runs: pd.DataFrame) -> str | None:
    """The column of the one objective; None if the runs have no such number."""
    wanted, known = objectives(jobs), final_numbers(runs)
    if len(wanted) != 1:
        return None
    return column(wanted[0], known or [f"after/{wanted[0]}"])


def choose(jobs: Sequence[Job], runs: pd.DataFrame, metric: str | None = None) -> str:
    """The column that is reported: the one asked for, the objective, or the best known reward.

    Raises:
      ValueError: `metric` is none of the runs' final numbers.
    """
    known = final_numbers(runs)
    if metric is not None:
        found = column(metric, known)
        if found is None:
            names = ", ".join(c.removeprefix("after/") for c in known)
            raise ValueError(
                f"metric {metric}: not a final number of these runs; they have "
                f"{names or 'none: no run has ended'}"
            )
        return found
    rest = [name for name in (*OUTCOMES, *known) if name in known]
    return objective(jobs, runs) or next(iter(rest), OUTCOMES[0])


def column(metric: str, known: Sequence[str]) -> str | None:
    """A final number by its name in summary.json or in results.csv.

    >>> column("gold/score", ["after/gold/score"]), column("gold", ["after/gold/score"])
    ('after/gold/score', None)
    """
    return next((name for name in (metric, f"after/{metric}") if name in known), None)


def direction(jobs: Sequence[Job]) -> str | None:
    """Which way a search looked: minimize or maximize; None if there was none."""
    found = {str(job.sweeper.get("direction") or "maximize") for job in jobs if job.suggested}
    return found.pop() if len(found) == 1 else None


def lower_is_better(column: str) -> bool:
    """Whether less of a final number is better.

    >>> lower_is_better("exact/gap_share"), lower_is_better("after/gold/score")
    (True, False)
    """
    return column.rpartition("/")[2] in LOWER


def reason(jobs: Sequence[Job], runs: pd.DataFrame, chosen: str) -> str:
    """Why this column is reported, as the end of a sentence about it."""
    wanted, own = objectives(jobs), objective(jobs, runs)
    if len(wanted) > 1:
        return f"the sweeps have several objectives: {', '.join(wanted)}"
    if not wanted:
        return "no objective is named in the runs' settings"
    if own == chosen:
        return f"it is the sweep's objective, {OBJECTIVE}={wanted[0]}"
    if own is None:
        return f"the sweep's objective, {wanted[0]}, is no final number of these runs"
    return f"it was asked for; the sweep's own objective is {wanted[0]}"
