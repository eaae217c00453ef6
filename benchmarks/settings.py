"""How what is measured computes: device, types, precision; and the options that set it."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from benchmarks.ppo_update_work import Work
from benchmarks.records import RESULTS

MATMULS = ("float32", "tensorfloat32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How all sides compute."""

    device: str = "cpu"
    dtype: str = "float32"
    matmul_precision: str = "float32"

    def given(self, work: Work, **more: Any) -> dict[str, Any]:
        """What a worker is told."""
        return dataclasses.asdict(self) | {"work": dataclasses.asdict(work)} | more


def add_options(parser: argparse.ArgumentParser) -> None:
    """The settings, and where the results go."""
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--matmul-precision", choices=MATMULS, default="float32")
    parser.add_argument("--out", type=Path, help="JSON file; default: benchmarks/results")


def settings_of(args: argparse.Namespace) -> Settings:
    """What the options say."""
    return Settings(args.device, args.dtype, args.matmul_precision)


def results_of(args: argparse.Namespace, name: str, *, usual: bool = True) -> Path:
    """Where the results go: the file asked for, or one in `benchmarks/results`.

    Args:
      usual: whether they are those a page shows; others do not take their place.
    """
    return args.out or RESULTS / (f"{name}.json" if usual else f"{name}_other.json")
