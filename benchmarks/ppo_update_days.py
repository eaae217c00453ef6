"""Whether runs of benchmarks.ppo_update agree in their ratios: a table in benchmarks/README.md.

    python -m benchmarks.ppo_update_days
    python -m benchmarks.ppo_update_days ONE.json OTHER.json       # of others; prints only

Every run that was made is kept: benchmarks/results/ppo_update_1.json and so on are earlier ones,
ppo_update.json, of which the other tables are, is the last.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.markdown import put_table, table
from benchmarks.ppo_update_table import SIDES, seconds
from benchmarks.ppo_update_work import SIZES, Work
from benchmarks.records import PAGE, RESULTS, as_command, read_record
from rlhf_jax.config import UserError

AGREE = 0.15  # asked of the ratios of two days before any was measured
HEAD = ["size", "of", "ratios", "apart", "seconds of TRL", "of ours", "turns", "measured (UTC)"]


def usual() -> list[dict[str, Any]]:
    """The sizes of every run that is kept, the last at the end."""
    return [sizes_of(path) for path in (*earlier(), RESULTS / "ppo_update.json")]


def earlier() -> list[Path]:
    """The records of the runs before the last."""
    return sorted(RESULTS.glob("ppo_update_[0-9].json"))


def when(found: Mapping[str, Any]) -> str:
    """The hour at which a size was measured, where its record has it.

    >>> when({"facts": {"ours": {"run": {"recorded": "2030-01-02T03:04:05+00:00"}}}})
    '2030-01-02 03:04'
    """
    told = found["facts"]["ours"].get("run", {}).get("recorded", "not recorded")
    return told[:16].replace("T", " ")


def apart(runs: Sequence[Mapping[str, Any]], side: str) -> float:
    """How much larger than the least ratio of a side the largest is, as a share of the least."""
    found = [run["ratio"][side]["median"] for run in runs]
    return max(found) / min(found) - 1


def of_size(runs: Sequence[Mapping[str, Any]], size: str) -> list[Mapping[str, Any]]:
    """What each run found of a size, of those that measured it."""
    return [run[size] for run in runs if size in run]


def lines(runs: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """A row for each size that two runs have, and each side.

    >>> row = lambda trl, ratio: {
    ...     "work": {"width": 64, "layers": 2, "vocab": 64},
    ...     "seconds": {"trl": [trl], "ours": [0.2], "sweep": [0.1]},
    ...     "ratio": {"ours": {"median": ratio}, "sweep": {"median": 2 * ratio}},
    ...     "facts": {"ours": {}},
    ... }
    >>> lines([{"64": row(0.8, 4.0), "128": {}}, {"64": row(1.0, 5.0)}])[0][1:7]
    ['one run', '4.00, 5.00', '25 % (missed)', '0.8, 1', '0.2, 0.2', '1, 1']
    """
    rows = []
    for size in SIZES:
        found = of_size(runs, size)
        told = lambda of, found=found: ", ".join(of(run) for run in found)
        for side, name in SIDES.items() if len(found) > 1 else ():
            gap = apart(found, side)
            verdict = f"{100 * gap:.0f} %" + (" (missed)" if gap > AGREE else "")
            ratio = lambda run, side=side: f"{run['ratio'][side]['median']:.2f}"
            cells = [name, told(ratio), verdict]
            cells += [told(lambda run, of=of: seconds(run, of)) for of in ("trl", side)]
            cells += [told(lambda run: str(len(run["seconds"]["trl"]))), told(when)]
            rows.append([Work(**found[0]["work"]).name, *cells])
    return rows


def sizes_of(path: Path) -> dict[str, Any]:
    """The sizes of a record, those beside TRL."""
    rows = read_record(path)["sizes"]
    return {size: row for size, row in rows.items() if "ratio" in row}


def main() -> None:
    """Reads the records."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("records", nargs="*", type=Path, help="files; default: all that are kept")
    args = parser.parse_args()
    if len(args.records) == 1:
        raise UserError("one record cannot be compared: name two or more")
    rows = lines([sizes_of(path) for path in args.records] or usual())
    print(table(HEAD, rows))
    if not args.records:
        put_table(PAGE, "ppo_update days", HEAD, rows)


if __name__ == "__main__":
    as_command(main)
