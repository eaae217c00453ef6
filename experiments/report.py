"""The report of a sweep, built again; or of several sweeps together.

python -m experiments.report outputs/sweeps/...            # results.csv, curves.parquet, the page
python -m experiments.report FIRST SECOND                  # compares two sweeps
python -m experiments.report DIR --metric exact/gap_share  # judged by another final number
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rlhf_jax.report.sweep import write_report


def main(arguments: Sequence[str] | None = None) -> int:
    """Builds the report; returns the exit status, 2 for what the user must mend."""
    asked = parser().parse_args(arguments)
    try:
        path = write_report(asked.directories, asked.metric, asked.out, Console())
    except (FileNotFoundError, ValueError) as error:
        return refuse(str(error))
    except OSError as error:
        return refuse(f"{error.filename}: {error.strerror}")
    Console().print(Text(f"The report is {path}"), soft_wrap=True)
    return 0


def parser() -> argparse.ArgumentParser:
    """What may be typed."""
    found = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument("directories", nargs="+", type=Path, metavar="DIR", help="of a sweep")
    found.add_argument(
        "--metric",
        metavar="NAME",
        help="the final number that counts; default: the sweep's objective",
    )
    found.add_argument("--out", type=Path, metavar="PATH", help="where the page goes")
    return found


def refuse(message: str) -> int:
    """Says in one line what is wrong."""
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
