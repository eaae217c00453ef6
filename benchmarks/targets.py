"""Every target of speed beside what was measured: two tables in benchmarks/README.md.

    python -m benchmarks.targets              # from the records that are there
    python -m benchmarks.targets --measure    # runs the benchmarks first: two hours

The targets were set before this code was measured. For the rows on two days, copy ppo_update.json
to ppo_update_N.json, with the next free N, before another run; for those on the slowest default
run, likewise pipeline_reviews.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from benchmarks import sweep as sweeps
from benchmarks.markdown import replaced, table
from benchmarks.ppo_update_days import AGREE, apart, of_size, usual
from benchmarks.ppo_update_table import SIDES
from benchmarks.ppo_update_table import TARGETS as UPDATES
from benchmarks.ppo_update_work import SIZES
from benchmarks.records import PAGE, RESULTS, as_command, read_record
from rlhf_jax.config import UserError

HEAD = ["what", "target", "measured", "", "command"]
BENCHMARKS = (
    "ppo_update",
    "ppo_update --dtype bfloat16",
    "ppo_update_days",
    "decode",
    "classic",
    "sweep ablation",
    "sweep memory",
    "pipeline reviews --seeds 4",
)


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


def ratios(sizes: Mapping[str, Any], command: str) -> Iterator[Row]:
    """Of one PPO update beside TRL's."""
    for size, row in sizes.items():
        for side, target in zip(SIDES, UPDATES[size]):
            what = f"seconds of TRL 1.9.2 / ours, {SIZES[size].name}, {SIDES[side]}"
            yield Row(what, target, row["ratio"][side]["median"], False, "", command)


def in_bf16() -> Iterator[Row]:
    """Of one PPO update with both sides in bf16, held to the same targets."""
    sizes = record("ppo_update_bfloat16")["sizes"]
    yield from ratios(sizes, "benchmarks.ppo_update --dtype bfloat16")


def updates() -> Iterator[Row]:
    """Of one PPO update."""
    sizes, command = record("ppo_update")["sizes"], "benchmarks.ppo_update"
    yield from ratios(sizes, command)
    for size, row in sizes.items():
        cold, warm = (x["compile_seconds"] for x in (row["cold"], row["facts"]["ours"]))
        what = f"compilation of one run, d {size}"
        yield Row(f"{what}, from cold", 10, cold, True, " s", command)
        yield Row(f"{what}, from the cache", 1, warm, True, " s", command)
        cold, warm = (x["compile_seconds"] for x in row["sweep_facts"])
        what = f"compilation of a sweep's program, d {size}"
        yield Row(f"{what}, from cold", 10, cold, True, " s", command)
        yield Row(f"{what}, from the cache", 1, warm, True, " s", command)


def days() -> Iterator[Row]:
    """Of all records of one PPO update: the side in which they agree least."""
    runs = usual()
    for size in SIZES:
        found = of_size(runs, size)
        gap = max(apart(found, side) for side in SIDES)
        what = f"ratios of {len(found)} runs at d {size}, furthest apart"
        yield Row(what, 100 * AGREE, 100 * gap, True, " %", "benchmarks.ppo_update_days")


def others() -> Iterator[Row]:
    """Of everything else."""
    sizes = record("decode")["sizes"]
    if "128" not in sizes:
        raise UserError("decode.json lacks d 128: run `python -m benchmarks.decode --sizes 128`")
    decode = sizes["128"]["ratio"]["median"]
    what = f"`generate` / ours, sampling at {SIZES['128'].name}"
    yield Row(what, 3, decode, False, "", "benchmarks.decode")
    for row in record("classic")["rows"]:
        if row["seeds"] == 16:
            cores = "one core" if row["cores"] == 1 else f"ours on {row['cores']} cores, it on one"
            what = f"rejax 0.1.3 / ours, 16 seeds of CartPole, {cores}"
            yield Row(what, 2, row["ratio"]["median"], False, "", "benchmarks.classic")
    sweep, command = record("sweep_ablation")["cold"], "benchmarks.sweep ablation"
    yield Row("`experiment=ablation`, 72 runs", 4, sweep["seconds"] / 60, True, " min", command)
    command = "benchmarks.sweep memory"
    memory = sweeps.most_bytes(record("sweep_memory")["cold"]) / 1e9
    yield Row("memory of 72 runs of the default model", 4, memory, True, " GB", command)
    yield from default_run()


def default_run() -> Iterator[Row]:
    """Of the newest record, and of the slowest one kept."""
    newest = record("pipeline_reviews")
    kept = [newest, *map(read_record, sorted(RESULTS.glob("pipeline_reviews_[0-9].json")))]
    if min(len(run["rows"]) for run in kept) < 2:
        raise UserError("a pipeline_reviews*.json has one seed: run it with `--seeds 2` or more")
    command = "benchmarks.pipeline reviews --seeds 4"
    for i, cache in enumerate(("from an empty cache", "with its programs cached")):
        minutes = [run["rows"][i]["seconds"] / 60 for run in kept]
        yield Row(f"the default run {cache}", 2, minutes[0], True, " min", command)
        if len(kept) > 1:
            what = f"the default run {cache}, slowest of {len(kept)}"
            yield Row(what, 2, max(minutes), True, " min", command)


def counted(rows: Iterable[Row]) -> str:
    """A table under how many of its targets are met.

    >>> print(counted([Row("memory", 4, 4.5, True, " GB", "benchmarks.sweep")]).splitlines()[0])
    0 of 1 met:
    """
    rows = list(rows)
    met = sum(row.met for row in rows)
    return f"{met} of {len(rows)} met:\n\n{table(HEAD, [row.cells() for row in rows])}"


def tables() -> dict[str, str]:
    """What stands between the marks of the page."""
    every = (row for part in (updates, days, others) for row in part())
    return {"targets": counted(every), "targets bfloat16": counted(in_bf16())}


def measured() -> dict[str, int]:
    """Runs every benchmark; those that ended otherwise than well, such as by a missed target."""
    ended = {}
    for name in BENCHMARKS:
        print(f"python -m benchmarks.{name}", flush=True)
        done = subprocess.run([sys.executable, "-m", *f"benchmarks.{name}".split()])
        if done.returncode:
            ended[name] = done.returncode
    return ended


def main() -> None:
    """Measures if asked to, and writes the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--measure", action="store_true", help="run every benchmark first")
    ended = measured() if parser.parse_args().measure else {}
    for mark, text in tables().items():
        print(text)
        PAGE.write_text(replaced(PAGE.read_text(), mark, text))
    for name, status in ended.items():
        print(f"`python -m benchmarks.{name}` ended with status {status}: see what it said")
    sys.exit(bool(ended))


if __name__ == "__main__":
    as_command(main)
