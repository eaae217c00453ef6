"""How the seconds of an update grow with model size, lanes, length and batch: docs/scaling.png.

    python -m benchmarks.scaling                 # measures, about 15 minutes, and draws
    python -m benchmarks.scaling --draw          # draws again what was measured

Around the model of d 128, 4 layers, one thing changes at a time. Each point is a process of its
own, warmed up; the median of a few updates. Writes benchmarks/results/scaling.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.ppo_update_work import SIZES, Work, gflop
from benchmarks.records import ROOT, as_command, stored_in
from benchmarks.settings import Settings, add_options, results_of, settings_of
from benchmarks.turns import CORES, ONE_THREAD, Worker, others, positive
from rlhf_jax.config import UserError
from rlhf_jax.io.run_dir import write_json

PICTURE = ROOT / "docs" / "scaling.png"
BASE = "128"
LENGTHS = (8, 24, 56, 120)  # tokens of a completion, after 8 of a prompt
EPISODES = (16, 32, 64, 128, 256)
LANES = {"cpu": (1, 2, 4, 8, 16), "gpu": (1, 2, 4, 8, 16, 32, 64, 128, 256)}
LANES_OF = "64"  # the size whose lanes are counted


def seconds(
    work: Work, settings: Settings, repeats: int, env: Mapping[str, str], **more: Any
) -> dict[str, Any]:
    """One point: the median seconds of an update, or of one update of all lanes."""
    command = [sys.executable, "-m", "benchmarks.ppo_update_worker"]
    worker = Worker(command, settings.given(work, **more), env)
    try:
        worker.ready()
        found = [worker.seconds() for _ in range(repeats)]
        facts = worker.facts()
    finally:
        worker.close()
    kept = ("compile_seconds", "peak_memory_bytes", "xla_flops")
    point = {"seconds": median(found), "all_seconds": found}
    return point | {k: facts[k] for k in kept} | {"others": others([worker])}


def points(settings: Settings, most_lanes: int | None) -> Iterator[tuple[str, int, Work, dict]]:
    """(curve, place on it, shapes, what else the worker is told)."""
    base = SIZES[BASE]
    for name, work in SIZES.items():
        yield "size", int(name), work, {}
    for length in LENGTHS:
        yield "length", length, dataclasses.replace(base, length=length), {}
    for episodes in EPISODES:
        yield "batch", episodes, dataclasses.replace(base, episodes=episodes), {}
    strategies = ("vmap", "map") if settings.device == "cpu" else ("vmap",)
    for strategy in strategies:
        for lanes in LANES[settings.device]:
            if most_lanes is None or lanes <= most_lanes:
                more = {"lanes": lanes, "strategy": strategy}
                yield f"lanes {strategy}", lanes, SIZES[LANES_OF], more


def measure(settings: Settings, repeats: int, curves: list[str] | None, most_lanes: int | None):
    """All points of the curves asked for, each as soon as it is there."""
    for curve, at, work, more in points(settings, most_lanes):
        if curves and curve.split()[0] not in curves:
            continue
        on_cpu_lanes = more and settings.device == "cpu"  # a pool wider than 1 can starve
        times = 2 if work.width >= 512 else repeats
        point = seconds(work, settings, times, ONE_THREAD if on_cpu_lanes else {}, **more)
        yield curve, {"at": at, "work": dataclasses.asdict(work)} | point


def curve(ax: Any, found: list[dict[str, Any]], color: str, label: str, each: bool = False) -> None:
    """Seconds over what is varied; with `each` of one lane."""
    x = [p["at"] for p in found]
    y = [p["seconds"] / (p["at"] if each else 1) for p in found]
    ax.plot(x, y, color=color, marker="o", markersize=4, linewidth=1.8, label=label)


def draw_updates(ax: Any, found: list[dict[str, Any]], gflops: float, heading: str, x: str) -> None:
    """Seconds of an update over what is varied, above what its arithmetic needs at the ceiling."""
    from matplotlib.ticker import LogLocator

    from rlhf_jax.report.style import COLORS, legend, title

    curve(ax, found, COLORS.blue, "one update")
    ax.plot(
        [p["at"] for p in found],
        [gflop(Work(**p["work"])) / gflops for p in found],
        color=COLORS.grey,
        linestyle="--",
        label="its arithmetic at the speed\nof one large matrix product",
    )
    title(ax, heading, x, "seconds an update")
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    legend(ax)


def draw_lanes(ax: Any, curves: Mapping[str, list[dict[str, Any]]], where: str) -> None:
    """Seconds of each lane over their number."""
    from rlhf_jax.report.style import COLORS, legend, title

    for name, color in (("vmap", COLORS.orange), ("map", COLORS.blue)):
        if f"lanes {name}" in curves:
            label = {"vmap": "side by side (vmap)", "map": "one after the other (map)"}[name]
            curve(ax, curves[f"lanes {name}"], color, label, each=True)
    threads = ", 1 thread" if where == "cpu" else ""
    heading = f"Lanes of one program (width 64{threads})"
    title(ax, heading, "lanes", "seconds an update of a lane")
    ax.set_ylim(bottom=0)
    legend(ax)


def draw(curves: Mapping[str, list[dict[str, Any]]], path: Path, where: str) -> None:
    """Four panels; all axes are logarithmic but the seconds of a lane."""
    from rlhf_jax.report.style import figure, save

    fig, axes = figure(2, 2)
    size, lanes, length, batch = axes
    gflops = curves["ceiling"][0]["gflops"]
    draw_updates(size, curves["size"], gflops, "Model size", "width (2, 4, 6, 8 layers)")
    draw_lanes(lanes, curves, where)
    tokens = "tokens of a completion, after 8 of a prompt"
    draw_updates(length, curves["length"], gflops, "Length (width 128)", tokens)
    draw_updates(batch, curves["batch"], gflops, "Batch (width 128)", "episodes an update")
    for ax, key in zip(axes, ("size", "lanes vmap", "length", "batch")):
        ax.set_xscale("log", base=2)
        ticks = [p["at"] for p in curves[key]]
        ax.set_xticks(ticks, [str(t) for t in ticks])
        ax.minorticks_off()
    save(fig, path)


def main() -> None:
    """Measures what is asked for, keeps the rest, and draws when all curves are there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--draw", action="store_true", help="measure nothing")
    parser.add_argument("--curves", nargs="*", choices=("size", "length", "batch", "lanes"))
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--lanes", type=int, help="most lanes")
    add_options(parser)
    args = parser.parse_args()
    settings = settings_of(args)
    usual = args.out is None and settings == Settings()
    out = results_of(args, "scaling", usual=usual)
    stored: dict[str, Any] = stored_in(out)
    fresh: dict[str, list[dict[str, Any]]] = {}
    if not args.draw:
        now = {"settings": dataclasses.asdict(settings), "cores": CORES}
        same = all(stored.get(k) == v for k, v in now.items())
        stored = stored if same else now | {"curves": {}}
        if not (args.curves and "ceiling" in stored["curves"]):  # curves kept have their own
            stored["curves"]["ceiling"] = [ceiling(settings)]
        for name, point in measure(settings, args.repeats, args.curves, args.lanes):
            fresh.setdefault(name, []).append(point)
            print(f"{name} {point['at']}: {point['seconds']:.4g} s", flush=True)
            write_json(out, stored | {"curves": stored["curves"] | fresh})
    curves = stored.get("curves", {}) | fresh
    if not curves:
        raise UserError(f"nothing to draw: {out} does not exist; run without --draw")
    if {"size", "lanes vmap", "length", "batch"} <= set(curves):
        draw(curves, PICTURE if usual else out.with_suffix(".png"), args.device)


def ceiling(settings: Settings) -> dict[str, Any]:
    """GFLOP/s of a large matrix product with all cores; and the machine."""
    command = [sys.executable, "-m", "benchmarks.ppo_update_worker"]
    worker = Worker(command, settings.given(SIZES["64"]), {}).ready()
    found = {"gflops": float(worker.ask("ceiling")), "run": worker.facts()["run"]}
    worker.close()
    return found


if __name__ == "__main__":
    as_command(main)
