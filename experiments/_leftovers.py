"""The end of a start: what a refused one takes away again, and the report of a sweep."""

from __future__ import annotations

import shutil
from pathlib import Path

from rich.console import Console

from rlhf_jax.io.console import note


def discard(folder: Path) -> None:
    """Removes a directory in which nothing was computed; any other stays as it is.

    Such a directory holds what Hydra and the first steps of a run write: settings, empty files
    and empty folders. The folders above it go too, as far as they are empty.
    """
    here = Path.cwd()
    folder = folder.resolve()
    if not folder.is_dir() or folder == here or folder in here.parents:
        return
    if all(is_settings(path) for path in folder.rglob("*") if not path.is_dir()):
        shutil.rmtree(folder)
        for above in folder.parents:
            if here not in above.parents or any(above.iterdir()):
                break
            above.rmdir()


def is_settings(path: Path) -> bool:
    """Whether a file only says what was to be run."""
    named = path.name in ("settings.json", "multirun.yaml") or path.parent.name == ".hydra"
    return named or path.stat().st_size == 0


def begun(root: Path) -> bool:
    """Whether a sweep has jobs."""
    return next(root.rglob(".hydra/overrides.yaml"), None) is not None


def ended(root: Path) -> bool:
    """Whether a job of a sweep has ended, well or not."""
    return any(next(root.rglob(name), None) for name in ("summary.json", "error.json"))


def report(root: Path) -> list[str]:
    """Writes and prints the report of a sweep; the lines of what went wrong with it."""
    try:
        from rlhf_jax.report.sweep import write_report

        page = write_report([root], console=Console())
        note(f"The report is in {page}")
    except Exception as error:  # the runs are on disk, whatever becomes of the report
        return [f"no report: {error}; build it by python -m experiments.report {root}"]
    except KeyboardInterrupt:
        note(f"the report was left out; build it by python -m experiments.report {root}")
    return []
