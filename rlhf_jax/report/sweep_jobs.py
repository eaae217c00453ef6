"""The jobs of a sweep as they lie on disk: settings, numbers, and what became of each.

Directories of jobs alone are read (`.hydra/`, `summary.json`, `error.json`), so that it does not
matter who ran them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from rlhf_jax.io.flat import flat
from rlhf_jax.report.load import load_summary

UNTOUCHED = ("run", "sink", "resume", "sweep")  # settings that change no number
HYDRA = ("hydra.", "hydra/")
Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast


@dataclass(frozen=True)
class Job:
    """One job as it lies on disk."""

    number: int
    path: Path
    status: str  # finished | diverged | failed | unfinished
    error: str | None
    typed: Mapping[str, Any]  # overrides by key
    choices: Mapping[str, Any]  # of config groups, such as task: bandit
    config: Mapping[str, Any]  # flat: algo.clip_eps: 0.2
    summary: Mapping[str, Any]
    sweeper: Mapping[str, Any] = field(default_factory=dict)  # Hydra's settings of it
    group: int | None = None

    @property
    def ended(self) -> bool:
        """Whether it has a score, if only that of a run that diverged."""
        return self.status in ("finished", "diverged")

    @property
    def suggested(self) -> bool:
        """Whether a search chose its settings, not a list that was typed."""
        target = str(self.sweeper.get("_target_") or "")
        return bool(target) and not target.endswith(".BasicSweeper")

    def setting(self, key: str) -> Any:
        """The value of a key that this job or another typed: a leaf's, or the name of a group."""
        for known in (self.config, self.choices, self.typed):
            if key in known:
                return known[key]
        return self.config.get(f"{key}.name")


def read_jobs(directory: str | os.PathLike[str]) -> list[Job]:
    """The jobs of a sweep, by number; a directory that is a job itself is a sweep of one.

    Raises:
      FileNotFoundError: no such directory, or nothing below it is a job of Hydra's.
      ValueError: below it are several sweeps, whose jobs have the same numbers.
    """
    root = Path(directory)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such directory")
    homes = [root] if (root / ".hydra").is_dir() else sorted(_homes(root))
    if not homes:
        raise FileNotFoundError(f"{root}: holds no jobs of a sweep (directories with .hydra/)")
    groups = {
        number: group["id"]
        for group in load_sweep(root).get("groups", ())
        for number in group["jobs"]
    }
    jobs = _distinct(root, [_job(home, groups) for home in homes])
    return sorted(jobs, key=lambda job: job.number)


def load_sweep(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """`sweep.json`, which our launcher writes; empty if another ran the jobs."""
    try:
        return load_summary(Path(directory) / "sweep.json")
    except json.JSONDecodeError:
        return {}


def varied(jobs: Sequence[Job]) -> list[str]:
    """Every key in which jobs differ, or that was typed; what was typed first."""
    keys = dict.fromkeys(k for job in jobs for k in job.typed if not k.startswith(HYDRA))
    leaves = dict.fromkeys(k for job in jobs for k in job.config)
    return list(keys | dict.fromkeys(k for k in leaves if differs(jobs, k)))


def untouched(key: str) -> bool:
    """Whether a setting changes no number."""
    return key.split(".")[0] in UNTOUCHED


def differs(jobs: Sequence[Job], key: str) -> bool:
    """Whether jobs have different values of a setting that can change a number."""
    return not untouched(key) and len({repr(job.setting(key)) for job in jobs}) > 1


def _homes(root: Path) -> list[Path]:
    """Directories of jobs, not those of stages that jobs share nor of runs inside a job."""
    found = []
    for child in sorted(root.iterdir()):
        hidden = child.name.startswith(".") or child.name in ("stages", "report", "logs")
        if child.is_dir() and not hidden:
            found += [child] if (child / ".hydra").is_dir() else _homes(child)
    return found


def _distinct(root: Path, jobs: Sequence[Job]) -> list[Job]:
    """Jobs with a number each: Hydra's, or if some have none (-1) that of their place."""
    first: dict[int, Job] = {}
    for job in jobs:
        other = first.setdefault(job.number, job)
        if other is not job and job.number >= 0:
            one, two = (j.path.relative_to(root).as_posix() for j in (other, job))
            raise ValueError(
                f"{root}: holds several sweeps ({one} and {two} are both job {job.number}): name "
                "the directory of each, and they are compared"
            )
    if -1 not in first:
        return list(jobs)
    return [replace(job, number=place) for place, job in enumerate(jobs)]


def _job(home: Path, groups: Mapping[int, int]) -> Job:
    hydra = _yaml(home / ".hydra" / "hydra.yaml").get("hydra") or {}
    number = (hydra.get("job") or {}).get("num")
    if not isinstance(number, int):
        number = int(home.name) if home.name.isdigit() else -1
    typed = _yaml(home / ".hydra" / "overrides.yaml") or []
    summary, error = _json(home / "summary.json"), _json(home / "error.json")
    status, reason = _status(summary, error)
    return Job(
        number=number,
        path=home,
        status=status,
        error=reason,
        typed=dict(_override(text) for text in typed),
        choices=(hydra.get("runtime") or {}).get("choices") or {},
        config=flat(_yaml(home / ".hydra" / "config.yaml")),
        summary=summary,
        sweeper=hydra.get("sweeper") or {},
        group=groups.get(number),
    )


def _status(summary: Mapping[str, Any], error: Mapping[str, Any]) -> tuple[str, str | None]:
    """What became of a job; a number that should be there and is not means that it diverged."""
    if summary:
        lost = [k for k, v in (summary.get("after") or {}).items() if v is None]
        status = summary.get("status") or ("diverged" if lost else "finished")
        reason = summary.get("error") or (f"not finite: {', '.join(lost)}" if lost else None)
        return ("diverged" if lost else status), reason
    if error:
        return error.get("status") or "failed", error.get("error")
    return "unfinished", None


def _override(text: str) -> tuple[str, Any]:
    key, _, value = str(text).partition("=")
    for read in (float, lambda text: yaml.load(text, Loader)):  # YAML takes 1e-4 for a word
        try:
            found = read(value)
            whole = isinstance(found, float) and found.is_integer() and value.lstrip("-").isdigit()
            return key.lstrip("+~"), int(found) if whole else found
        except (ValueError, yaml.YAMLError):
            continue
    return key.lstrip("+~"), value


def _yaml(path: Path) -> Any:
    """What a file of settings says; nothing if a killed run left none, or half of one."""
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader) or {}
    except (FileNotFoundError, yaml.YAMLError):
        return {}


def _json(path: Path) -> dict[str, Any]:
    try:
        return load_summary(path)
    except json.JSONDecodeError:
        return {}
