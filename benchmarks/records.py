"""Where benchmarks keep what they found, and how they end when they cannot go on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_jax.config import UserError

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "benchmarks" / "README.md"  # of the tables on speed


def stored_in(path: Path) -> dict[str, Any]:
    """What a benchmark wrote there before, nothing if it did not."""
    return json.loads(path.read_text()) if path.exists() else {}


def read_record(path: Path) -> dict[str, Any]:
    """What a benchmark has written.

    Raises:
      UserError: it has not.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist: run its benchmark first")
    return json.loads(path.read_text())


def as_command(main: Callable[[], None]) -> None:
    """Runs a benchmark; what the user can mend ends it with one line."""
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
