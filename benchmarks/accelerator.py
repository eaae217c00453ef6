"""Everything of ours on an accelerator, in one process and one JSON, in less than 8 minutes.

    benchmarks/accelerator.sh --device gpu            # or python -m benchmarks.accelerator
    benchmarks/accelerator.sh --device cpu --small    # a rehearsal of the script, not a measurement

Matrix-product ceilings; one update at the four sizes in float32, TF32 and bfloat16; lanes side by
side (`vmap`), 1 to 256; sampling. Each with achieved GFLOP/s, its share of the measured ceiling and
of the data sheet's peak. TRL and `generate` take turns with ours where a Python that has them is
found (--peer-python, or the pinned environment, or this Python). What there was no time for is
listed in `left_out`. Writes benchmarks/results/accelerator_DEVICE.json after every step.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import os
import re
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.ceiling import matmul_gflops, peak_gflops
from benchmarks.ppo_update_work import SIZES, Work, update_flops
from benchmarks.precision import errors, outcome
from benchmarks.records import RESULTS, ROOT
from benchmarks.turns import CORES, TRL_PINS, Worker, peer_python, positive, ratios
from rlhf_jax import runtime
from rlhf_jax.config import RunConfig, UserError
from rlhf_jax.io.run_dir import run_facts, write_json

# Precision: type of the operands of matrix products, and how float32 ones are multiplied.
PRECISIONS = {
    "float32": ("float32", "float32"),
    "tensorfloat32": ("float32", "tensorfloat32"),
    "bfloat16": ("bfloat16", "bfloat16"),
}
LANES = (1, 4, 16, 64, 256, 2, 8, 32, 128)  # the ends and the middle first
Step = tuple[str, Callable[[], dict[str, Any]]]


@dataclasses.dataclass
class Bench:
    """What the steps share: settings, and ceilings as soon as they are known."""

    run: RunConfig
    sizes: dict[str, Work]
    lanes: tuple[int, ...]
    repeats: int
    peers: bool
    python: str | None
    ceilings: dict[str, float] = dataclasses.field(default_factory=dict)

    def ceiling(self, precision: str) -> dict[str, Any]:
        """One large matrix product."""
        dtype, how = PRECISIONS[precision]
        use(how)
        self.ceilings[precision] = matmul_gflops(dtype)
        return {"precision": precision, "gflops": self.ceilings[precision]}

    def update(
        self, size: str, precision: str, lanes: int = 0, attention: str = "own"
    ) -> dict[str, Any]:
        """Updates of one run, or of lanes side by side; TRL between them if it is there."""
        from benchmarks.ppo_update_setup import frozen_of, pipeline_of
        from benchmarks.ppo_update_worker import lanes as of_lanes
        from benchmarks.ppo_update_worker import single, timed, xla_flops

        dtype, how = PRECISIONS[precision]
        use(how)
        work = self.sizes[size]
        pipeline = pipeline_of(work, self.run, dtype, attention)
        frozen = frozen_of(pipeline)
        made = of_lanes(pipeline, frozen, lanes, "vmap") if lanes else single(pipeline, frozen)
        update, compile_seconds, program = made
        update()
        with ExitStack() as stack:
            alone = lanes or precision == "tensorfloat32" or attention != "own"
            trl = None if alone else self.peer(stack, "trl", work, dtype)
            pairs = [(timed(update), trl.seconds() if trl else 0.0) for _ in range(self.repeats)]
        ours = [a for a, _ in pairs]
        found = self.rated(median(ours), max(lanes, 1) * update_flops(work)["whole"], precision)
        found |= {"size": size, "precision": precision, "lanes": lanes or 1, "all_seconds": ours}
        found |= {"attention": attention}
        found |= {"compile_seconds": compile_seconds, "xla_flops": xla_flops(program)}
        found |= {"seconds_a_run": found["seconds"] / max(lanes, 1), "peak_so_far_bytes": peak()}
        if trl:
            theirs = [b for _, b in pairs]
            found |= {"trl_seconds": theirs, "ratio": ratios(theirs, ours)}
        return found

    def precision(self, size: str, precision: str) -> dict[str, Any]:
        """How far a precision is from float32 products."""
        dtype, how = PRECISIONS[precision]
        use("highest")
        exact = outcome(self.sizes[size], self.run)
        use(how)
        rough = outcome(self.sizes[size], self.run, dtype=dtype)
        return {"size": size, "precision": precision} | errors(rough, exact)

    def decode(self, size: str, precision: str) -> dict[str, Any]:
        """Sampling, with `generate` between if it is there."""
        from benchmarks.decode_worker import sampler

        dtype, how = PRECISIONS[precision]
        use(how)
        work = self.sizes[size]
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            sample, compile_seconds, _ = sampler(work, self.run, dtype, Path(folder))
            peer = self.peer(stack, "transformers", work, dtype, folder=folder)
            pairs = [(sample(i), peer.seconds() if peer else 0.0) for i in range(self.repeats)]
            found = {"size": size, "precision": precision, "compile_seconds": compile_seconds}
            ours, theirs = [a for a, _ in pairs], [b for _, b in pairs]
            found |= {"tokens_per_second": work.episodes * work.length / median(ours)}
            if peer:
                found |= {"generate_seconds": theirs, "ratio": ratios(theirs, ours)}
        return found | {"all_seconds": ours}

    def rated(self, seconds: float, flops: float, precision: str) -> dict[str, Any]:
        """Achieved arithmetic, and what share it is of what the device can do."""
        import jax

        gflops = flops / seconds / 1e9
        peak = peak_gflops(jax.devices()[0].device_kind, precision)
        ceiling = self.ceilings.get(precision)
        return {
            "seconds": seconds,
            "gflops": gflops,
            "share_of_ceiling": None if ceiling is None else gflops / ceiling,
            "share_of_peak": None if peak is None else gflops / peak,
        }

    def peer(
        self, stack: ExitStack, package: str, work: Work, dtype: str, **more: Any
    ) -> Worker | None:
        """A worker of a peer until the stack ends, where there is a Python that has it."""
        python = (self.python or python_with(package)) if self.peers else None
        if python is None:
            return None
        script = {"trl": "trl_ppo_worker.py", "transformers": "transformers_worker.py"}[package]
        given = {"work": dataclasses.asdict(work), "device": self.run.device, "dtype": dtype}
        command = [python, str(ROOT / "benchmarks" / "peers" / script)]
        worker = Worker(command, given | {"threads": CORES} | more, {})
        stack.callback(worker.close)
        try:
            return worker.ready()
        except UserError as error:  # perhaps another version: ours is measured without it
            print(f"left out: {error}", flush=True)
            return None

    def steps(self) -> Iterator[Step]:
        """What is done, most wanted first."""
        for precision in PRECISIONS:
            yield f"ceiling {precision}", lambda p=precision: self.ceiling(p)
        sizes, first = list(self.sizes), next(iter(self.sizes))
        order = [(size, p) for p in ("float32", "bfloat16") for size in sizes]
        for size, precision in order[: len(sizes)]:
            yield f"update {size} {precision}", lambda s=size, p=precision: self.update(s, p)
        for lanes in self.lanes:
            yield f"lanes {lanes}", lambda n=lanes: self.update(first, "float32", n)
        for size, precision in order[len(sizes) :]:
            yield f"update {size} {precision}", lambda s=size, p=precision: self.update(s, p)
        kernel = "cudnn" if self.run.device == "gpu" else "xla"
        for size in sizes:
            yield (
                f"update {size} bfloat16 {kernel}",
                lambda s=size: self.update(s, "bfloat16", attention=kernel),
            )
        for precision in PRECISIONS:
            yield f"precision {first} {precision}", lambda p=precision: self.precision(first, p)
        for size in sizes:
            yield f"decode {size} float32", lambda s=size: self.decode(s, "float32")
        for size in sizes:
            name = f"update {size} tensorfloat32"
            yield name, lambda s=size: self.update(s, "tensorfloat32")


def use(precision: str) -> None:
    """How float32 matrix products are computed from now on."""
    import jax

    jax.config.update("jax_default_matmul_precision", precision)


def peak() -> int:
    """The most memory held so far, in bytes."""
    from rlhf_jax.sweep.workers import peak_memory

    return peak_memory()


def python_with(package: str) -> str | None:
    """An interpreter that has a peer: of the pinned environment, or this one."""
    try:
        return peer_python(TRL_PINS)
    except UserError:
        return sys.executable if importlib.util.find_spec(package) else None


def carried_out(name: str, step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What a step found, or the error it ended with: the others go on."""
    start = time.monotonic()
    try:
        found = step()
    except Exception as error:
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {str(error).splitlines()[:1]}"}
    return {"step": name} | found | {"step_seconds": time.monotonic() - start}


def bench_of(args: argparse.Namespace, run: RunConfig) -> Bench:
    """What the options ask for."""
    if not args.small:
        return Bench(run, SIZES, LANES, args.repeats, not args.no_peers, args.peer_python)
    tiny = {"tiny": Work(16, 1, 16, heads=2, kv_heads=2, length=4, episodes=8, epochs=1)}
    return Bench(run, tiny, (1, 2, 4), 2, not args.no_peers, args.peer_python)


def options() -> argparse.Namespace:
    """What was typed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "gpu", "tpu"), default="gpu")
    parser.add_argument("--small", action="store_true", help="tiny shapes: does the script run")
    parser.add_argument("--seconds", type=float, default=420.0, help="no step begins later")
    parser.add_argument("--repeats", type=positive, default=5)
    parser.add_argument("--peer-python", help="an interpreter that has trl and transformers")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def shown(step: Mapping[str, Any]) -> dict[str, Any]:
    """What of a step is printed."""
    names = ("seconds", "gflops", "tokens_per_second", "largest_nats", "gradient", "error")
    return {name: step[name] for name in names if name in step}


def main() -> None:
    """All steps there is time for."""
    start, args = time.monotonic(), options()
    run = RunConfig(device=args.device, threads=1 if args.device == "cpu" else None)
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # peers need some, too
    runtime.setup(run)
    kind = runtime.connect(run)
    bench = bench_of(args, run)
    label = re.sub(r"\W+", "_", kind).strip("_").lower() + ("_small" if args.small else "")
    out = args.out or RESULTS / f"accelerator_{label}.json"
    found: dict[str, Any] = {"device_kind": kind, "facts": run_facts(), "steps": [], "left_out": []}
    for name, step in bench.steps():
        if time.monotonic() - start > args.seconds:
            found["left_out"].append(name)
            continue
        try:
            found["steps"].append(carried_out(name, step))
        except KeyboardInterrupt:  # time is up: what was found stays, what is missing is named
            found["left_out"].append(f"{name} (interrupted)")
            start = -float("inf")
            continue
        found["seconds"] = time.monotonic() - start
        write_json(out, found)
        print(f"{name}: {shown(found['steps'][-1])} after {found['seconds']:.0f} s", flush=True)
    write_json(out, found)
    print(f"{out}: {len(found['steps'])} steps, {len(found['left_out'])} left out")
    sys.exit(any("error" in step for step in found["steps"]))


if __name__ == "__main__":
    main()
