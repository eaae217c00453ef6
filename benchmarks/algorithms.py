"""Trains every algorithm on the default task at equal samples, over seeds, and writes the table.

    python -m benchmarks.algorithms                     # all of them, 4 seeds
    python -m benchmarks.algorithms ppo grpo --seeds 2

Each run is an ordinary one of `experiments.rlhf`; supervised and reward models are trained once a
seed and shared. All sample (or, of fixed data, read) 128 completions an update, 40 updates long.
Writes benchmarks/results/algorithms.json, docs/algorithms.md and the table of the README.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks import markdown as tables
from benchmarks.records import RESULTS, ROOT, stored_in
from rlhf_jax.io.run_dir import run_facts, write_json
from rlhf_jax.machine import cores
from rlhf_jax.report.names import algorithm

RECORD = RESULTS / "algorithms.json"
NAMES = sorted(p.stem for p in (ROOT / "configs" / "algo").glob("*.yaml"))
NUMBERS = ("gold_before", "gold_after", "score_after", "kl_after", "seconds")
UPDATES = 40
# To draw as many completions as the others: 5,120 of them.
OWN = {"rejection": ["algo.num_prompts=1280", "algo.n=4"], "best_of_n": ["algo.n=10"]}


def run(name: str, seed: int, folder: Path) -> dict[str, object]:
    """One run; what its records say."""
    run_dir = folder / f"{name}_seed{seed}"
    settings = [f"algo={name}", f"seed={seed}", f"hydra.run.dir={run_dir}", "run.progress=false"]
    settings += [] if name == "best_of_n" else [f"algo.updates={UPDATES}"]
    command = [sys.executable, "-m", "experiments.rlhf", *settings, *OWN.get(name, [])]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"NPROC": "1"})
    if done.returncode:
        return {"algo": name, "seed": seed, "error": done.stderr.strip()[-500:]}
    summary = json.loads((run_dir / "summary.json").read_text())
    before, after = summary["before"], summary["after"]
    stage = summary["stages"][name]
    return {
        "algo": name,
        "seed": seed,
        "gold_before": before["gold/score"],
        "gold_after": after["gold/score"],
        "score_after": after["objective/scores"],
        "kl_after": after["objective/kl"],
        "length_after": after["tokens/completion_length"],
        "reference_sd": before["gold/std"],
        "seconds": stage["seconds"] + stage.get("compile_seconds", 0.0),
        "jax": summary["versions"]["jax"] if "versions" in summary else None,
    }


def run_all(names: list[str], seeds: int, folder: Path, workers: int) -> list[dict]:
    """Seeds in the outer loop; the first run of a seed trains what the others share."""
    rows: list[dict] = []
    with ThreadPoolExecutor(workers) as pool:
        rows += pool.map(lambda seed: run(names[0], seed, folder), range(seeds))
        for seed in range(seeds):
            jobs = [(name, seed, folder) for name in names[1:]]
            for row in pool.map(lambda job: run(*job), jobs):
                print(json.dumps(row), flush=True)
                rows.append(row)
    return rows


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean and 95 % interval of Student's t over seeds."""
    mean, error = values.mean(), stats.sem(values)
    half = stats.t.ppf(0.975, len(values) - 1) * error
    return mean, mean - half, mean + half


def summarize(rows: list[dict]) -> list[dict]:
    """One line an algorithm, best first: gains are paired, after less before of the same seed."""
    table = []
    for name in dict.fromkeys(row["algo"] for row in rows):
        own = [row for row in rows if row["algo"] == name and "error" not in row]
        if len(own) < 2:
            continue
        columns = {k: np.array([row[k] for row in own]) for k in NUMBERS}
        gain, low, high = interval(columns["gold_after"] - columns["gold_before"])
        means = {k: column.mean() for k, column in columns.items()}
        line = {"algo": name, "seeds": len(own), "gain": gain, "low": low, "high": high}
        table.append(line | means)
    return sorted(table, key=lambda line: -line["gain"])


def markdown(table: list[dict]) -> str:
    """The table as people read it."""
    rows = []
    for line in table:
        gain = f"{line['gain']:+.2f} [{line['low']:.2f}, {line['high']:.2f}]"
        names = [algorithm(line["algo"]), f"`{line['algo']}`"]
        numbers = [f"{line['kl_after']:.1f}", f"{line['score_after']:.2f}"]
        rows.append([*names, gain, *numbers, f"{line['seconds']:.0f}"])
    return tables.table(HEAD, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", default=NAMES, help="algorithms; default: all")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--workers", type=int, default=cores())
    parser.add_argument("--dry", action="store_true", help="write no file")
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    parser.add_argument("--folder", type=Path, default=Path("outputs/benchmarks") / now)
    args = parser.parse_intermixed_args()
    rows = run_all(args.names, args.seeds, args.folder, args.workers)
    if not args.dry:  # what is not run again stays in the table
        stored = stored_in(RECORD).get("rows", [])
        rows += [row for row in stored if row["algo"] not in args.names]
    table = summarize(rows)
    print(markdown(table))
    if not args.dry:
        write_json(RECORD, {"facts": run_facts(), "rows": rows, "table": table})
        write_pages(markdown(table), args.seeds)
    failed = [row for row in rows if "error" in row]
    unsure = [line["algo"] for line in table if line["low"] <= 0]
    for row in failed:
        print(f"failed: {row['algo']} seed {row['seed']}: {row['error']}")
    if unsure:
        print(f"the interval of the gain holds 0: {', '.join(unsure)}")
    sys.exit(bool(failed or unsure))


def write_pages(text: str, seeds: int) -> None:
    """The page, and the table in the README between its two marks."""
    page = PAGE.format(table=text, seeds=seeds, updates=UPDATES)
    (ROOT / "docs" / "algorithms.md").write_text(page)
    readme = ROOT / "README.md"
    readme.write_text(tables.replaced(readme.read_text(), "algorithms", text))


HEAD = ["algorithm", "`algo=`", "gold reward, gain [95 %]", "KL (nats/text)", "score", "seconds"]
PAGE = """# Every algorithm on the default task, at equal samples

Written by `python -m benchmarks.algorithms`: task `reviews`, {seeds} seeds, {updates} updates of
128 completions (of fixed data: 64 pairs). The gain is the gold reward after training less that
before, of the same seed, on 512 held-out prompts; the interval is Student's t over seeds. Seconds
are those of the algorithm's own stage on one core, compilation included. Settings are those of
`configs/algo/`. This compares settings, not ideas: the KL differs from row to row, and a row
further from the reference has paid more for its reward.

{table}
"""

if __name__ == "__main__":
    main()
