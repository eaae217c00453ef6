"""Whether two runs of benchmarks.ppo_update agree in their ratios: a table in benchmarks/README.md.

python -m benchmarks.ppo_update --out benchmarks/results/ppo_update_earlier.json   # one day
python -m benchmarks.ppo_update                                                    # another
python -m benchmarks.ppo_update_days
python -m benchmarks.ppo_update_days ONE.json OTHER.json       # of others; prints only
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.markdown import put_table, table
from benchmarks.ppo_update_table import SIDES, seconds
from benchmarks.ppo_update_work import Work
from benchmarks.records import PAGE, RESULTS, as_command, read_record
from rlhf_jax.config import UserError

USUAL = [RESULTS / "ppo_update_earlier.json", RESULTS / "ppo_update.json"]
AGREE = 0.15  # asked of the ratios of two days before any was measured
HEAD = ["size", "of", "ratio, earlier", "now", "apart", "seconds of TRL", "of ours", "measured"]


def when(found: Mapping[str, Any]) -> str:
    """The hour (UTC) at which a size was measured, where its record has it.

    >>> when({"facts": {"ours": {"run": {"recorded": "2030-01-02T03:04:05+00:00"}}}})
    '2030-01-02 03:04'
    """
    told = found["facts"]["ours"].get("run", {}).get("recorded", "not recorded")
    return told[:16].replace("T", " ")


def apart(day: Mapping[str, Any], other: Mapping[str, Any], side: str) -> float:
    """By how much the ratios of two records of a size differ, as a share of the smaller."""
    a, b = (found["ratio"][side]["median"] for found in (day, other))
    return max(a, b) / min(a, b) - 1


def lines(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[list[str]]:
    """A row for each size that both have, and each side.

    >>> row = lambda trl, ratio: {
    ...     "work": {"width": 64, "layers": 2, "vocab": 64},
    ...     "seconds": {"trl": [trl], "ours": [0.2], "sweep": [0.1]},
    ...     "ratio": {"ours": {"median": ratio}, "sweep": {"median": 2 * ratio}},
    ...     "facts": {"ours": {}},
    ... }
    >>> lines({"64": row(0.8, 4.0), "128": {}}, {"64": row(1.0, 5.0)})[0][1:7]
    ['one run', '4.00', '5.00', '25 % (missed)', '0.8, 1', '0.2, 0.2']
    """
    found = []
    for size in (size for size in now if size in earlier):
        days = earlier[size], now[size]
        both = lambda side, days=days: ", ".join(seconds(day, side) for day in days)
        for side, name in SIDES.items():
            a, b = (day["ratio"][side]["median"] for day in days)
            gap = apart(*days, side)
            verdict = f"{100 * gap:.0f} %" + (" (missed)" if gap > AGREE else "")
            cells = [name, f"{a:.2f}", f"{b:.2f}", verdict, both("trl"), both(side)]
            measured = ", ".join(when(day) for day in days)
            found.append([Work(**days[1]["work"]).name, *cells, measured])
    return found


def sizes_of(path: Path) -> dict[str, Any]:
    """The sizes of a record, those beside TRL."""
    rows = read_record(path)["sizes"]
    return {size: row for size, row in rows.items() if "ratio" in row}


def main() -> None:
    """Reads both records."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("records", nargs="*", type=Path, help="two files; default: the usual ones")
    args = parser.parse_args()
    if args.records and len(args.records) != 2:
        raise UserError(f"two records are compared, not {len(args.records)}")
    earlier, now = map(sizes_of, args.records or USUAL)
    rows = lines(earlier, now)
    print(table(HEAD, rows))
    if not args.records:
        put_table(PAGE, "ppo_update days", HEAD, rows)


if __name__ == "__main__":
    as_command(main)
