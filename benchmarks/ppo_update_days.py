"""Whether two runs of benchmarks.ppo_update agree in their ratios: a table in benchmarks/README.md.

python -m benchmarks.ppo_update --out benchmarks/results/ppo_update_earlier.json   # one day
python -m benchmarks.ppo_update                                                    # another
python -m benchmarks.ppo_update_days
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.markdown import put_table, table
from benchmarks.ppo_update_table import PAGE, SIDES, seconds
from benchmarks.ppo_update_work import Work
from benchmarks.turns import RESULTS

HEAD = ["size", "of", "ratio, earlier", "now", "apart", "seconds of TRL", "of ours"]


def lines(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> list[list[str]]:
    """A row for each size that both have, and each side.

    >>> row = lambda trl, ratio: {
    ...     "work": {"width": 64, "layers": 2, "vocab": 64},
    ...     "seconds": {"trl": [trl], "ours": [0.2], "sweep": [0.1]},
    ...     "ratio": {"ours": {"median": ratio}, "sweep": {"median": 2 * ratio}},
    ... }
    >>> lines({"64": row(0.8, 4.0), "128": {}}, {"64": row(1.0, 5.0)})[0][1:]
    ['one run', '4.00', '5.00', '25 %', '0.8, 1', '0.2, 0.2']
    """
    found = []
    for size in (size for size in now if size in earlier):
        days = earlier[size], now[size]
        both = lambda side, days=days: ", ".join(seconds(day, side) for day in days)
        for side, name in SIDES.items():
            a, b = (day["ratio"][side]["median"] for day in days)
            apart = f"{100 * (max(a, b) / min(a, b) - 1):.0f} %"
            cells = [name, f"{a:.2f}", f"{b:.2f}", apart, both("trl"), both(side)]
            found.append([Work(**days[1]["work"]).name, *cells])
    return found


def main() -> None:
    """Reads both records."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--earlier", type=Path, default=RESULTS / "ppo_update_earlier.json")
    parser.add_argument("--now", type=Path, default=RESULTS / "ppo_update.json")
    args = parser.parse_args()
    earlier, now = (json.loads(path.read_text())["sizes"] for path in (args.earlier, args.now))
    rows = lines(earlier, now)
    print(table(HEAD, rows))
    put_table(PAGE, "ppo_update days", HEAD, rows)


if __name__ == "__main__":
    main()
