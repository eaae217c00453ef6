"""Every target of speed beside what was measured: a table in benchmarks/README.md.

    python -m benchmarks.targets        # after the benchmarks whose records it reads

The targets were set before any was measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from benchmarks.markdown import put_table, table
from benchmarks.ppo_update_table import SIDES
from benchmarks.ppo_update_table import TARGETS as UPDATES
from benchmarks.ppo_update_work import SIZES
from benchmarks.records import PAGE, RESULTS, as_command, read_record

HEAD = ["what", "target", "measured", "", "command"]


class Row(NamedTuple):
    """One target."""

    what: str
    target: float
    measured: float
    most: bool  # the target is an upper limit
    unit: str
    command: str

    @property
    def met(self) -> bool:
        """Whether it was reached."""
        return self.measured <= self.target if self.most else self.measured >= self.target

    def cells(self) -> list[str]:
        """As the table has it.

        >>> Row("memory", 4, 4.5, True, " GB", "benchmarks.sweep").cells()
        ['memory', 'at most 4 GB', '4.5 GB', '**missed**', '`python -m benchmarks.sweep`']
        """
        bound = f"at {'most' if self.most else 'least'} {self.target:g}{self.unit}"
        verdict = "met" if self.met else "**missed**"
        measured = f"{self.measured:.3g}{self.unit}"
        return [self.what, bound, measured, verdict, f"`python -m {self.command}`"]


def record(name: str) -> dict[str, Any]:
    """What a benchmark has written."""
    return read_record(RESULTS / f"{name}.json")


def updates() -> Iterator[Row]:
    """Of one PPO update."""
    sizes, command = record("ppo_update")["sizes"], "benchmarks.ppo_update"
    for size, row in sizes.items():
        for side, target in zip(SIDES, UPDATES[size]):
            what = f"TRL 1.9.2 / ours, {SIZES[size].name}, {SIDES[side]}"
            yield Row(what, target, row["ratio"][side]["median"], False, "", command)
    for size, row in sizes.items():
        cold, warm = (x["compile_seconds"] for x in (row["cold"], row["facts"]["ours"]))
        what = f"compilation of one run, d {size}"
        yield Row(f"{what}, from cold", 10, cold, True, " s", command)
        yield Row(f"{what}, from the cache", 1, warm, True, " s", command)


def others() -> Iterator[Row]:
    """Of everything else."""
    decode = record("decode")["sizes"]["128"]["ratio"]["median"]
    what = f"`generate` / ours, sampling at {SIZES['128'].name}"
    yield Row(what, 3, decode, False, "", "benchmarks.decode")
    for row in record("classic")["rows"]:
        if row["seeds"] == 16:
            cores = "one core" if row["cores"] == 1 else f"{row['cores']} cores"
            what = f"rejax 0.1.3 / ours, 16 seeds of CartPole, {cores}"
            yield Row(what, 2, row["ratio"]["median"], False, "", "benchmarks.classic")
    sweep, command = record("sweep_ablation")["cold"], "benchmarks.sweep ablation"
    memory = sweep["peak_memory_bytes_per_process"] * sweep["processes"] / 1e9
    yield Row("memory of a sweep of 72 runs", 4, memory, True, " GB", command)
    yield Row("these 72 runs from an empty cache", 4, sweep["seconds"] / 60, True, " min", command)
    first, second = (row["seconds"] / 60 for row in record("pipeline_reviews")["rows"][:2])
    command = "benchmarks.pipeline reviews"
    yield Row("the default run from an empty cache", 2, first, True, " min", command)
    yield Row("the default run with the cache", 2, second, True, " min", command)


def main() -> None:
    """Writes the table."""
    rows = [row.cells() for part in (updates, others) for row in part()]
    print(table(HEAD, rows))
    put_table(PAGE, "targets", HEAD, rows)


if __name__ == "__main__":
    as_command(main)
