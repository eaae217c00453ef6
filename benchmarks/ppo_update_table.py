"""The tables of benchmarks.ppo_update: seconds, ratios beside the targets, what misses them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.markdown import put_table
from benchmarks.ppo_update_work import SIZES, Work, gflop
from benchmarks.records import PAGE, RESULTS, ROOT, stored_in
from benchmarks.turns import spread

TARGETS = {"64": (6, 12), "128": (3, 5), "256": (2, 3), "512": (1.5, 2)}  # one run, in a sweep
SIDES = {"ours": "one run", "sweep": "a run in a sweep of 8 lanes"}
HEAD = [
    "size",
    "TRL 1.9.2, s",
    "ours, s",
    "ratio (range)",
    "target",
    "in an 8-lane sweep, s a run",
    "ratio (range)",
    "target",
]
HEAD_SPEED = [
    "size",
    "turns",
    "GFLOP an update",
    "GFLOP/s: ours (of our ceiling)",
    "sweep's (of our ceiling)",
    "TRL's (of its own)",
    "our ceiling, GFLOP/s",
    "TRL's ceiling",
    "one run of ours on 1 thread, s",
]
HEAD_COMPILATION = [
    "compilation, s: from cold / from the cache",
    "one run",
    "XLA's part of it",
    "a sweep's program",
    "XLA's part of it",
]
HEAD_MEMORY = [
    "peak memory, GiB",
    "one run that compiled / found its program",
    "sweep: first process / second",
    "TRL",
]
HEAD_SHORT = [
    "an update of",
    "TRL, s",
    "ours, s",
    "times as fast",
    "times as fast: a run in a sweep of 8",
    "times as fast, in bf16",
    "times as fast, in bf16: a run in a sweep of 8",
]
HEAD_MISSES = ["size", "of", "target", "reached", "seconds", "at the ceiling, s", "ratio there"]


def merged(
    path: Path, settings: Mapping[str, Any], size: str, found: Mapping[str, Any]
) -> dict[str, Any]:
    """The sizes of a file of results, with one measured anew, in the order of the table.

    What was measured with other settings is dropped.
    """
    stored = stored_in(path)
    rows = stored["sizes"] if stored.get("settings") == settings else {}
    rows |= {size: found}
    return {k: rows[k] for k in SIZES if k in rows}


def seconds(found: Mapping[str, Any], side: str) -> str:
    """The median of a side, - where it was not measured.

    >>> seconds({"seconds": {"ours": [0.1, 0.25, 7.0]}}, "ours")
    '0.25'
    """
    values = found["seconds"].get(side)
    return f"{median(values):.3g}" if values else "-"


def ratio(found: Mapping[str, Any], side: str) -> str:
    """How many times longer TRL takes."""
    return spread(found["ratio"][side]) if "ratio" in found else "-"


def line(found: Mapping[str, Any], size: str | None = None) -> list[str]:
    """A row of the first table."""
    target = TARGETS.get(size or "", ("", ""))
    name = Work(**found["work"]).name
    ours = [seconds(found, "ours"), ratio(found, "ours"), str(target[0])]
    sweep = [seconds(found, "sweep"), ratio(found, "sweep"), str(target[1])]
    return [name, seconds(found, "trl"), *ours, *sweep]


def speed(found: Mapping[str, Any]) -> list[str]:
    """A row on arithmetic: how much, how fast, and how fast one large product is."""
    work = Work(**found["work"])
    ceilings = {side: max(values) for side, values in found["ceiling_gflops"].items()}
    reached = lambda side: gflop(work) / median(found["seconds"][side])
    share = lambda side: f"{100 * reached(side) / ceilings.get(side, ceilings['ours']):.0f} %"
    rate = lambda side: f"{reached(side):.0f} ({share(side)})" if side in found["seconds"] else "-"
    return [
        work.name,
        str(len(found["seconds"]["ours"])),
        f"{gflop(work):.0f}",
        *map(rate, ("ours", "sweep", "trl")),
        *(f"{ceilings[side]:.0f}" if side in ceilings else "-" for side in ("ours", "trl")),
        seconds(found, "one_thread"),
    ]


def compilation(found: Mapping[str, Any]) -> list[str]:
    """A row on seconds of compilation."""
    pair = lambda facts, key: " / ".join(f"{x[key]:.1f}" if key in x else "-" for x in facts)
    sides = [[found["cold"], found["facts"]["ours"]], found["sweep_facts"]]
    keys = ("compile_seconds", "xla_seconds")
    return [Work(**found["work"]).name, *(pair(side, key) for side in sides for key in keys)]


def memory(found: Mapping[str, Any]) -> list[str]:
    """A row on the most memory that processes held."""
    gib = lambda *facts: " / ".join(f"{fact['peak_memory_bytes'] / 2**30:.2f}" for fact in facts)
    facts = found["facts"]
    sides = [(found["cold"], facts["ours"]), found["sweep_facts"], (facts["trl"],)]
    return [Work(**found["work"]).name, *(gib(*side) for side in sides)]


BEHIND = {
    "speed": (HEAD_SPEED, speed),
    "compilation": (HEAD_COMPILATION, compilation),
    "memory": (HEAD_MEMORY, memory),
}


def misses(rows: Mapping[str, Any]) -> list[list[str]]:
    """What stays below its target, with the seconds its arithmetic would take at the ceiling."""
    found = []
    for size, row in rows.items():
        floor = gflop(Work(**row["work"])) / max(row["ceiling_gflops"]["ours"])
        best = median(row["seconds"]["trl"]) / floor
        for (side, name), target in zip(SIDES.items(), TARGETS[size]):
            reached = row["ratio"][side]["median"]
            if reached < target:
                numbers = [f"{reached:.2f}", seconds(row, side), f"{floor:.2g}", f"{best:.1f}"]
                found.append([SIZES[size].name, name, str(target), *numbers])
    return found or [["none", "", "", "", "", "", ""]]


def short(rows: Mapping[str, Any], in_bf16: Mapping[str, Any]) -> list[list[str]]:
    """Rows of the table in README.md: how many times as fast as TRL, in both types."""
    times = lambda row, side: f"{row['ratio'][side]['median']:.1f}" if row else "-"
    found = []
    for size, row in rows.items():
        other = in_bf16.get(size)
        ratios = [times(one, side) for one in (row, other) for side in SIDES]
        found.append([Work(**row["work"]).name, seconds(row, "trl"), seconds(row, "ours"), *ratios])
    return found


def write(rows: Mapping[str, Any], mark: str) -> None:
    """Puts the tables into benchmarks/README.md."""
    put_table(PAGE, mark, HEAD, [line(row, size) for size, row in rows.items()])
    for name, (head, behind) in BEHIND.items():
        put_table(PAGE, f"{mark} {name}", head, [behind(row) for row in rows.values()])
    put_table(PAGE, f"{mark} misses", HEAD_MISSES, misses(rows))


def write_short() -> None:
    """Puts the table of both types into README.md."""
    both = [stored_in(RESULTS / f"{name}.json") for name in ("ppo_update", "ppo_update_bfloat16")]
    table_rows = short(*(found.get("sizes", {}) for found in both))
    put_table(ROOT / "README.md", "ppo_update", HEAD_SHORT, table_rows)
