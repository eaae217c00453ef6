"""Where the seconds of one PPO update go: its parts, each compiled and timed by itself.

    python -m benchmarks.profile_update                        # every size
    python -m benchmarks.profile_update --sizes 64 --label before

The parts are the functions the update is made of, called as often as the update calls them. Apart
they share nothing and are fused with nothing, so their sum is not the whole, and is held against
it. Parts of the backward pass are those of one block
and of the head, times their number. Writes benchmarks/results/profile.json and a table in
benchmarks/README.md.
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


def clock(call: Callable[[], Any], *, least: int = 3, enough: float = 2.0) -> float:
    """Median seconds of a call, of at least so many and so long; a first one is not counted."""
    import jax

    jax.block_until_ready(call())
    found: list[float] = []
    while len(found) < least or sum(found) < enough:
        start = time.monotonic()
        jax.block_until_ready(call())
        found.append(time.monotonic() - start)
    return median(found)


def profile(work: Work, run: RunConfig, dtype: str) -> dict[str, float]:
    """Seconds an update of every part, and of the whole."""
    from benchmarks.ppo_update_setup import frozen_of, pipeline_of
    from benchmarks.profile_update_parts import Parts

    pipeline = pipeline_of(work, run, dtype)
    parts = Parts(pipeline, frozen_of(pipeline))
    steps, models = work.epochs * work.minibatches, 2
    both = steps * models * work.layers  # blocks an update learns in, of policy and value function
    rollout, prompts = clock(parts.rollout()), clock(parts.prompts())
    reference, values = clock(parts.reference()), clock(parts.values())
    forward, gradient = clock(parts.forward()), clock(parts.gradient())
    found = {
        "rollout: prompts": prompts,
        "rollout: tokens": rollout - prompts,
        "reward model": clock(parts.reward()),
        "reference": reference,
        "values": values,
        "advantages, metrics": clock(parts.experience()) - reference - values,
        "forward": steps * forward,
        "optimizer": steps * clock(parts.optimizer()),
        "host": clock(parts.host()),
    }
    backward = {
        "backward: attention": both * beyond_forward(*parts.attention()),
        "backward: feed-forward": both * beyond_forward(*parts.feed_forward()),
        "backward: head and loss": steps * beyond_forward(*parts.head()),
    }
    rest = steps * (gradient - forward) - sum(backward.values())
    found |= backward | {"backward: the rest": rest}
    whole = {"learning, whole": clock(parts.learn()), "whole": clock(parts.whole())}
    return found | {"sum": sum(found.values())} | whole


def beyond_forward(forward: Callable[[], Any], gradient: Callable[[], Any]) -> float:
    """What a gradient takes longer than the pass it belongs to."""
    return clock(gradient) - clock(forward)


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
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
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
