"""sweep.json: what a sweep ran, as which groups, and what that cost."""

from __future__ import annotations

import dataclasses
import datetime
import json
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.io.run_dir import write_json
from rlhf_jax.sweep.plan import Group, differing


@dataclasses.dataclass(eq=False)
class GroupRecord:
    """What became of a group."""

    id: int
    jobs: list[int]
    static: Mapping[str, Any]  # the settings in which groups differ
    strategy: str
    workers: int
    lanes: int
    error: str | None = None
    used: set[int] = dataclasses.field(default_factory=set)  # workers
    compiles: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)
    peak: int = 0  # of one process
    started: float | None = None
    ended: float = 0.0

    @staticmethod
    def of(group: Group, plan: Sequence[Group], workers: int) -> GroupRecord:
        """A group before it is run."""
        static = differing([other.static for other in plan])[plan.index(group)]
        numbers = [job.number for job in group.jobs]
        return GroupRecord(group.id, numbers, static, group.strategy, workers, group.lanes)

    def begin(self, worker: int, *, early: bool = False) -> None:
        """A worker takes a part of it, or (early) compiles its program while it waits."""
        self.used.add(worker)
        if not early:
            self.started = self.started or time.monotonic()

    def compiled(self, program: Mapping[str, Any]) -> None:
        """A worker has compiled its program."""
        self.compiles.append(program)
        self.lanes = min(self.lanes, int(program["lanes"]))

    def end(self, peak: int) -> None:
        """A part of it is over."""
        self.ended, self.peak = time.monotonic(), max(self.peak, int(peak))

    def plain(self, number: int) -> dict[str, Any]:
        """As sweep.json has it."""
        return {
            "id": number,
            "jobs": self.jobs,
            "static": dict(self.static),
            "strategy": self.strategy,
            "workers": len(self.used),
            "lanes": self.lanes,
            "compiles": len(self.compiles),
            "compile_seconds": sum(float(c["seconds"]) for c in self.compiles),
            "seconds": max(self.ended - (self.started or self.ended), 0.0),
            "peak_memory_bytes": self.peak,
            "error": self.error,
        }


def write_sweep(
    root: Path, groups: Sequence[GroupRecord], facts: Mapping[str, Any], seconds: float
) -> None:
    """Writes sweep.json; groups of earlier calls (of a search, or before a resume) stay."""
    path = root / "sweep.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known = earlier.get("groups", [])
    begun = datetime.datetime.now().astimezone() - datetime.timedelta(seconds=seconds)
    sweep = {
        "command": earlier.get("command", command()),
        "begun": earlier.get("begun", begun.isoformat(timespec="seconds")),
        "seconds": earlier.get("seconds", 0.0) + seconds,
        "facts": dict(facts),
        "groups": known + [g.plain(len(known) + i) for i, g in enumerate(groups)],
    }
    write_json(path, sweep)


def command() -> str:
    """What was typed."""
    return shlex.join(["python", *sys.orig_argv[1:]])
