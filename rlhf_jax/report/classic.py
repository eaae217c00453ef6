"""A multirun of experiments.ppo as tables: each arm, and what each setting that was swept does."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from rlhf_jax.report.stats import Estimate, estimate

RETURN = "episode/return"  # of the last 100 episodes


@dataclass(frozen=True, eq=False)
class Arm:
    """One job: what was swept, and the final return of each of its seeds."""

    swept: dict[str, str]
    returns: np.ndarray  # [seeds]

    @property
    def found(self) -> Estimate:
        """IQM and its interval over seeds."""
        return estimate(self.returns[:, None])


@dataclass(frozen=True)
class Effect:
    """What one setting does, the others being equal."""

    key: str
    value: str
    instead_of: str
    found: Estimate  # of the difference in return, over pairs of arms and seeds


def read_arms(root: Path) -> list[Arm]:
    """The finished jobs below a sweep's directory, in their order."""
    arms = []
    for path in sorted(root.glob("*/summary.json"), key=lambda p: natural(p.parent.name)):
        summary = json.loads(path.read_text(encoding="utf-8"))
        typed = (path.parent / ".hydra" / "overrides.yaml").read_text(encoding="utf-8")
        pairs = (str(item).partition("=") for item in yaml.safe_load(typed))
        swept = {key: value for key, _, value in pairs}
        arms.append(Arm(swept, np.asarray(summary["final"][RETURN], float)))
    same = {k for k in (arms[0].swept if arms else {}) if len({a.swept.get(k) for a in arms}) == 1}
    told = [Arm({k: v for k, v in a.swept.items() if k not in same}, a.returns) for a in arms]
    return [arm for arm in told if np.isfinite(arm.returns).all()]


def natural(name: str) -> tuple[int, str]:
    """Hydra numbers its jobs.

    >>> sorted(["10", "9", "x"], key=natural)
    ['x', '9', '10']
    """
    return (int(name), "") if name.isdigit() else (-1, name)


def effects(arms: list[Arm]) -> list[Effect]:
    """Each further value of each setting against its first, over pairs of arms that are else equal.

    Differences are of equal seeds.
    """
    found = []
    for key in arms[0].swept if arms else ():
        values = list(dict.fromkeys(arm.swept[key] for arm in arms))
        rest = lambda arm: tuple((k, v) for k, v in arm.swept.items() if k != key)  # noqa: B023
        by = {(rest(arm), arm.swept[key]): arm.returns for arm in arms}
        for value in values[1:]:
            pairs = [
                (by[r, value], x) for (r, v), x in by.items() if v == values[0] and (r, value) in by
            ]
            gains = [a - b for a, b in pairs if a.shape == b.shape]
            if gains:
                found.append(Effect(key, value, values[0], estimate(np.stack(gains, axis=1))))
    return found


def as_csv(arms: list[Arm]) -> str:
    """A row an arm: what was swept, IQM of the return, its 95 % interval, number of seeds."""
    keys = list(dict.fromkeys(k for arm in arms for k in arm.swept))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*keys, "return_iqm", "low", "high", "seeds"])
    for arm in arms:
        e = arm.found
        swept = [arm.swept.get(k, "") for k in keys]
        writer.writerow([*swept, *(f"{x:.6g}" for x in (e.value, e.low, e.high)), len(arm.returns)])
    return out.getvalue()


def lines(arms: list[Arm]) -> list[str]:
    """Arms, best first, and effects, as people read them."""
    shown = lambda e: f"{e.value:9.2f} [{e.low:.2f}, {e.high:.2f}]"
    best = sorted(arms, key=lambda arm: -arm.found.value)
    told = ["return of the last 100 episodes: IQM over seeds [95 % interval]"]
    told += [f"{shown(a.found)}  {' '.join(f'{k}={v}' for k, v in a.swept.items())}" for a in best]
    moved = effects(arms)
    told += ["effects: difference in return, all else and the seed being equal"] if moved else []
    return told + [f"{shown(e.found)}  {e.key}: {e.value}, not {e.instead_of}" for e in moved]
