"""How much of an update is matrix products, and how fast these run: why a target is missed.

    python -m benchmarks.operations                  # d 64, 128 and 256
    python -m benchmarks.operations --sizes 64

One update of one run on one thread of the CPU, where operations do not overlap, is traced by JAX's
profiler. Every operation of the compiled program is a matrix product or is not; the arithmetic of
the products over their seconds is held against one large product on the same thread. Writes
benchmarks/results/operations.json and a table in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.markdown import put_table
from benchmarks.ppo_update_work import SIZES, Work, gflop
from benchmarks.records import PAGE, RESULTS, stored_in
from rlhf_jax import runtime
from rlhf_jax.config import RunConfig
from rlhf_jax.io.run_dir import run_facts, write_json

HEAD = [
    "size",
    "an update on one thread, s",
    "matrix products, s (share)",
    "their GFLOP/s (of the ceiling)",
    "all else, s (share)",
    "most of it",
]
CONTAINERS = ("while", "call", "conditional")  # their time is that of what they hold
ASSIGNED = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*)$", re.MULTILINE)
NAMED = re.compile(r'op_name="([^"]*)"')


def primitives(program: str) -> dict[str, str]:
    """The JAX primitive behind every operation of a compiled program, by the operation's name.

    >>> primitives('  %add.1 = f32[2] add(%a, %b), metadata={op_name="jit(f)/jvp()/mul"}')
    {'add.1': 'mul'}
    >>> primitives("  ROOT dot.2 = f32[2,2] dot(a, b)")
    {'dot.2': 'dot'}
    """
    found = {}
    for name, rest in ASSIGNED.findall(program):
        named = NAMED.search(rest)
        found[name] = named[1].rpartition("/")[2] if named else name.partition(".")[0]
    return found


def kind(operation: str, primitive: str) -> str:
    """`matrix product`, or the primitive an operation is named after.

    >>> kind("ynn_fusion.3", "dot_general"), kind("dot.2", "transpose"), kind("fusion", "exp")
    ('matrix product', 'matrix product', 'exp')
    """
    product = primitive == "dot_general" or operation.startswith("dot")
    return "matrix product" if product else primitive


def traced(folder: str) -> Counter[str]:
    """Milliseconds of every operation in a trace."""
    import jax

    (path,) = Path(folder).rglob("*.xplane.pb")
    found: Counter[str] = Counter()
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for event in (event for line in plane.lines for event in line.events):
            name = dict(event.stats).get("hlo_op")
            if name and not name.startswith(CONTAINERS):
                found[name] += event.duration_ns / 1e6
    return found


def measure(work: Work, run: RunConfig) -> dict[str, Any]:
    """Seconds of one update by kind of operation."""
    import jax

    from benchmarks.ceiling import matmul_gflops
    from benchmarks.ppo_update_setup import frozen_of, pipeline_of
    from benchmarks.ppo_update_worker import single, timed

    pipeline = pipeline_of(work, run)
    update, _, program = single(pipeline, frozen_of(pipeline))
    update()
    untraced = median(timed(update) for _ in range(3))
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            update()
        operations = traced(folder)
    behind, seconds = primitives(program.as_text()), Counter[str]()
    for name, spent in operations.items():
        seconds[kind(name, behind.get(name, name))] += spent / 1e3
    return {
        "work": dataclasses.asdict(work),
        "untraced_seconds": untraced,
        "seconds": dict(seconds.most_common()),
        "ceiling_gflops": max(matmul_gflops() for _ in range(3)),
        "run": run_facts(),
    }


def line(found: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    seconds = dict(found["seconds"])
    whole, products = sum(seconds.values()), seconds.pop("matrix product")
    rate, ceiling = gflop(Work(**found["work"])) / products, found["ceiling_gflops"]
    share = lambda part: f"{part:.3g} ({100 * part / whole:.0f} %)"
    most = sorted(seconds, key=seconds.__getitem__, reverse=True)[:4]
    return [
        Work(**found["work"]).name,
        f"{found['untraced_seconds']:.3g}",
        share(products),
        f"{rate:.0f} ({100 * rate / ceiling:.0f} %)",
        share(whole - products),
        ", ".join(f"{name} {100 * seconds[name] / whole:.0f} %" for name in most),
    ]


def main() -> None:
    """Measures the sizes asked for, and puts them beside those measured before."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=["64", "128", "256"])
    args = parser.parse_args()
    run = RunConfig(device="cpu", threads=1)
    runtime.setup(run)
    runtime.connect(run)
    path = RESULTS / "operations.json"
    rows = stored_in(path)
    for size in args.sizes:
        rows[size] = measure(SIZES[size], run)
        print(" | ".join(line(rows[size])), flush=True)
    rows = {size: rows[size] for size in SIZES if size in rows}
    write_json(path, rows)
    put_table(PAGE, "operations", HEAD, [line(row) for row in rows.values()])


if __name__ == "__main__":
    main()
