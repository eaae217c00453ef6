"""Tokens a second of sampling beside `transformers` `generate`, same weights, in one run.

    benchmarks/peers/setup.sh trl_ppo             # once
    python -m benchmarks.decode                   # 64 completions of 24 tokens at d 64, 128 and 256
    python -m benchmarks.decode --sizes 128       # one size; the others stay

Both read the same 64 prompts of 8 tokens and draw 24 tokens each from the same model, written by
ours as a Hugging Face folder; before they are timed, their logits are compared. Both use all cores
and a cache of keys and values. They take turns; the ratio is the median over rounds.
Writes benchmarks/results/decode.json and a table in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.markdown import put_table
from benchmarks.ppo_update_table import merged
from benchmarks.ppo_update_work import SIZES, Work, rollout_flops
from benchmarks.records import PAGE, ROOT, as_command
from benchmarks.settings import Settings, add_options, results_of, settings_of
from benchmarks.turns import (
    CORES,
    ONE_THREAD,
    TRL_PINS,
    Worker,
    others,
    peer_python,
    positive,
    ratios,
    spread,
)
from rlhf_jax.config import UserError
from rlhf_jax.io.run_dir import write_json

PEER = ROOT / "benchmarks" / "peers" / "transformers_worker.py"
TARGETS = {"128": "3"}
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.3}  # of logits, whose spread is about 1
HEAD = [
    "size",
    "ours, tokens/s",
    "on 1 thread",
    "`generate`, tokens/s",
    "ratio (range)",
    "target",
    "ours, GFLOP/s (of the ceiling)",
    "ratio at the ceiling",
    "compile, s",
    "peak memory, GiB: ours",
    "`generate`",
]


def same_logits(ours: Worker, theirs: Worker, dtype: str) -> float:
    """The largest difference of the logits after the first prompt.

    Raises:
      UserError: the two are not the same model.
    """
    a, b = (np.array(json.loads(worker.ask("logits"))) for worker in (ours, theirs))
    gap = float(np.max(np.abs(a - b)))
    if not gap < TOLERANCE[dtype]:
        raise UserError(f"the two models differ: logits by {gap:.3g}")
    return gap


def measure(work: Work, settings: Settings, repeats: int, python: str | None) -> dict[str, Any]:
    """Both by turns, and ours on one thread."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        cache = {"RLHF_JAX_CACHE": str(Path(folder, "cache"))}
        given = settings.given(work, folder=str(Path(folder, "model")), threads=CORES)
        command = [sys.executable, "-m", "benchmarks.decode_worker"]
        ours = Worker(command, given, cache).ready()
        stack.callback(ours.close)
        sides = {"ours": ours}
        if python is not None:
            sides["generate"] = Worker([python, str(PEER)], given, {}).ready()
            stack.callback(sides["generate"].close)
        if settings.device == "cpu":
            sides["one_thread"] = Worker(command, given, cache | ONE_THREAD).ready()
            stack.callback(sides["one_thread"].close)
        found: dict[str, Any] = {"work": dataclasses.asdict(work)}
        if python is not None:
            found["logits_gap"] = same_logits(ours, sides["generate"], settings.dtype)
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(repeats):
            for name, worker in sides.items():
                seconds[name].append(worker.seconds())
        tokens = work.episodes * work.length
        found |= {
            "seconds": seconds,
            "tokens_per_second": {k: tokens / median(v) for k, v in seconds.items()},
            "facts": {k: worker.facts() for k, worker in sides.items()},
            "others": others(list(sides.values())),
        }
        if python is not None:
            found["ratio"] = ratios(seconds["generate"], seconds["ours"])
        return found


def line(found: dict[str, Any], size: str) -> list[str]:
    """A row of the table.

    >>> facts = {"ceiling_gflops": 100.0, "compile_seconds": 2.0, "peak_memory_bytes": 2**29}
    >>> found = {"tokens_per_second": {"ours": 2e4, "generate": 1e4}, "facts": {"ours": facts}}
    >>> found |= {"work": {"width": 128, "layers": 4, "vocab": 256}}
    >>> line(found | {"ratio": {"median": 2.0, "least": 1.5, "most": 2.5}}, "128")[1:]
    ['20,000', '-', '10,000', '2.00 (1.50 to 2.50)', '3', '54 (54 %)', '3.7', '2.0', '0.50', '-']
    """
    speed = found["tokens_per_second"]
    rate = lambda name: f"{speed[name]:,.0f}" if name in speed else "-"
    work, ours = Work(**found["work"]), found["facts"]["ours"]
    reached = rollout_flops(work) * speed["ours"] / (work.episodes * work.length) / 1e9
    share = reached / ours["ceiling_gflops"]
    best = f"{speed['ours'] / speed['generate'] / share:.1f}" if "generate" in speed else "-"
    cells = [work.name, rate("ours"), rate("one_thread"), rate("generate")]
    cells += [spread(found["ratio"]) if "ratio" in found else "-"]
    cells += [TARGETS.get(size, ""), f"{reached:.0f} ({100 * share:.0f} %)", best]
    gib = lambda facts: f"{facts['peak_memory_bytes'] / 2**30:.2f}"
    theirs = found["facts"].get("generate")
    return [*cells, f"{ours['compile_seconds']:.1f}", gib(ours), gib(theirs) if theirs else "-"]


def main() -> None:
    """Measures the sizes asked for, and puts them beside those measured before."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=["64", "128", "256"])
    parser.add_argument("--repeats", type=positive, default=31)
    add_options(parser)
    args = parser.parse_args()
    settings = settings_of(args)
    usual = args.out is None and settings == Settings()
    out = results_of(args, "decode", usual=usual)
    python = peer_python(TRL_PINS)
    for size in args.sizes:
        found = measure(SIZES[size], settings, args.repeats, python)
        rows = merged(out, dataclasses.asdict(settings), size, found)
        write_json(out, {"settings": dataclasses.asdict(settings), "sizes": rows})
        print(" | ".join(line(found, size)), flush=True)
        if usual:
            put_table(PAGE, "decode", HEAD, [line(row, k) for k, row in rows.items()])


if __name__ == "__main__":
    as_command(main)
