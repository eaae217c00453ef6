"""Where the seconds of one PPO update go: its parts, each compiled and timed by itself.

    python -m benchmarks.profile_update                        # d 64, 128 and 256
    python -m benchmarks.profile_update --sizes 64 --label before

The parts are the functions the update is made of, timed by turns and counted as often as the update
calls them. Apart they share nothing and are fused with nothing, so their sum is not the whole, and
is held against it. Parts of the backward pass are those of one block and of the head, times their
number. Writes benchmarks/results/profile.json and a table in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

from benchmarks.markdown import put_table
from benchmarks.ppo_update_work import SIZES, Work
from benchmarks.records import PAGE, RESULTS, stored_in
from rlhf_jax import runtime
from rlhf_jax.config import RunConfig
from rlhf_jax.io.run_dir import run_facts, write_json

RECORD = RESULTS / "profile.json"
GROUPS = {
    "rollout": ("rollout: prompts", "rollout: tokens"),
    "scoring": ("reward model", "reference", "values", "advantages, metrics"),
    "learning": (
        "forward",
        "backward: attention",
        "backward: feed-forward",
        "backward: head and loss",
        "backward: the rest",
        "optimizer",
    ),
    "host": ("host",),
}


def clock(
    calls: Mapping[str, Callable[[], Any]], *, least: int = 5, enough: float = 30.0
) -> dict[str, float]:
    """Median seconds of each call over rounds of all of them, at least so many and so long.

    What the machine does to its speed then meets all parts. A first round is not counted.
    """
    import jax

    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        jax.block_until_ready(call())
    begun, rounds = time.monotonic(), 0
    while rounds < least or time.monotonic() - begun < enough:
        for name, call in calls.items():
            start = time.monotonic()
            jax.block_until_ready(call())
            found[name].append(time.monotonic() - start)
        rounds += 1
    return {name: median(seconds) for name, seconds in found.items()}


def profile(work: Work, run: RunConfig, dtype: str) -> dict[str, float]:
    """Seconds an update of every part, and of the whole."""
    from benchmarks.ppo_update_setup import frozen_of, pipeline_of
    from benchmarks.profile_update_parts import Parts

    pipeline = pipeline_of(work, run, dtype)
    seconds = clock(Parts(pipeline, frozen_of(pipeline)).calls())
    found = in_an_update(work, seconds)
    whole = {"learning, whole": seconds["learn"], "whole": seconds["whole"]}
    return found | {"sum": sum(found.values())} | whole


def in_an_update(work: Work, seconds: Mapping[str, float]) -> dict[str, float]:
    """Seconds that each part takes in an update, from those of its calls."""
    steps, models = work.epochs * work.minibatches, 2
    both = steps * models * work.layers  # blocks an update learns in, of policy and value function
    beyond = lambda part: seconds[f"{part} gradient"] - seconds[part]  # the pass it belongs to
    backward = {
        "backward: attention": both * beyond("attention"),
        "backward: feed-forward": both * beyond("feed_forward"),
        "backward: head and loss": steps * beyond("head"),
    }
    rest = steps * (seconds["gradient"] - seconds["forward"]) - sum(backward.values())
    apart = seconds["reference"] + seconds["values"]
    return {
        "rollout: prompts": seconds["prompts"],
        "rollout: tokens": seconds["rollout"] - seconds["prompts"],
        "reward model": seconds["reward"],
        "reference": seconds["reference"],
        "values": seconds["values"],
        "advantages, metrics": seconds["experience"] - apart,
        "forward": steps * seconds["forward"],
        "optimizer": steps * seconds["optimizer"],
        "host": seconds["host"],
        **backward,
        "backward: the rest": rest,
    }


def table(sizes: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """A column a size: seconds, and their share of the sum of all parts."""

    def cell(found: Mapping[str, float], value: float) -> str:
        return f"{value:.3g} ({round(100 * value / found['sum'])} %)"

    rows = []
    for group, names in GROUPS.items():
        if len(names) > 1:
            total = [cell(x, sum(x[n] for n in names)) for x in sizes.values()]
            rows.append([f"**{group}**", *total])
        rows += [[name, *[cell(x, x[name]) for x in sizes.values()]] for name in names]
    rows += [
        [f"**{name}**", *[f"{x[name]:.3g}" for x in sizes.values()]] for name in ("sum", "whole")
    ]
    return ["seconds an update (share)", *[SIZES[size].name for size in sizes]], rows


def main() -> None:
    """Measures the sizes asked for and keeps what was measured of the others."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=["64", "128", "256"])
    parser.add_argument("--label", choices=("before", "after"), default="after")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, help="of XLA's pool on a CPU; default: one a core")
    dry = "write no file, as with another device, type or number of threads"
    parser.add_argument("--dry", action="store_true", help=dry)
    args = parser.parse_args()
    run = RunConfig(device=args.device, threads=args.threads)
    runtime.setup(run)
    runtime.connect(run)
    stored = stored_in(RECORD)
    usual = args.device == "cpu" and args.dtype == "float32" and args.threads is None
    for size in args.sizes:
        found = profile(SIZES[size], run, args.dtype)
        print(json.dumps({"size": size} | {k: round(v, 5) for k, v in found.items()}), flush=True)
        of_label = stored.get(args.label, {}).get("sizes", {}) | {size: found}
        ordered = {k: of_label[k] for k in SIZES if k in of_label}
        facts = stored.get(args.label, {}).get("facts", {})
        facts = {k: v for k, v in facts.items() if k in SIZES} | {size: run_facts()}
        stored[args.label] = {"sizes": ordered, "facts": facts, "dtype": args.dtype}
        if usual and not args.dry:
            write_json(RECORD, stored)
            put_table(PAGE, f"profile {args.label}", *table(ordered))


if __name__ == "__main__":
    main()
