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
HEAD_MACHINE = [
    "size",
    "turns",
    "GFLOP an update",
    "GFLOP/s: ours (of the ceiling)",
    "sweep",
    "TRL",
    "ceiling, GFLOP/s",
    "one run on 1 thread, s",
    "compile, s: cold / cached",
    "of it XLA",
    "sweep",
    "of it XLA",
    "peak memory, GiB: ours, cold / cached",
    "sweep, first / second process",
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


def machine(found: Mapping[str, Any]) -> list[str]:
    """A row of the second table."""
    work, ceilings = Work(**found["work"]), found["ceiling_gflops"]
    ceilings = {side: max(values) for side, values in ceilings.items()}
    speed = lambda side: gflop(work) / median(found["seconds"][side])
    share = lambda side: f"{100 * speed(side) / ceilings.get(side, ceilings['ours']):.0f} %"
    rate = lambda side: f"{speed(side):.0f} ({share(side)})" if side in found["seconds"] else "-"
    pair = lambda facts, key="compile_seconds": " / ".join(
        f"{fact[key]:.1f}" if key in fact else "-" for fact in facts
    )
    gib = lambda *facts: " / ".join(f"{fact['peak_memory_bytes'] / 2**30:.2f}" for fact in facts)
    facts, sweep = found["facts"], found["sweep_facts"]
    return [
        work.name,
        str(len(found["seconds"]["ours"])),
        f"{gflop(work):.0f}",
        rate("ours"),
        rate("sweep"),
        rate("trl"),
        f"{ceilings['ours']:.0f}",
        seconds(found, "one_thread"),
        pair([found["cold"], facts["ours"]]),
        pair([found["cold"], facts["ours"]], "xla_seconds"),
        pair(sweep),
        pair(sweep, "xla_seconds"),
        gib(found["cold"], facts["ours"]),
        gib(*sweep),
        gib(facts["trl"]),
    ]


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
    put_table(PAGE, f"{mark} machine", HEAD_MACHINE, [machine(row) for row in rows.values()])
    put_table(PAGE, f"{mark} misses", HEAD_MISSES, misses(rows))


def write_short() -> None:
    """Puts the table of both types into README.md."""
    both = [stored_in(RESULTS / f"{name}.json") for name in ("ppo_update", "ppo_update_bfloat16")]
    table_rows = short(*(found.get("sizes", {}) for found in both))
    put_table(ROOT / "README.md", "ppo_update", HEAD_SHORT, table_rows)
