"""The project's own question, asked twice: what do clipping, the KL coefficient and sharing do?

    python -m benchmarks.question              # both sweeps: 216 and 144 runs, half an hour
    python -m benchmarks.question DIR DIR      # draws those: on reviews, and on an exact task

Prints what the comparisons came to and writes docs/ablation.png and
benchmarks/results/question.json.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from benchmarks.records import RESULTS
from benchmarks.sweep import SWEEPS
from rlhf_jax.io.run_dir import run_facts, write_json
from rlhf_jax.report import style
from rlhf_jax.report.sweep_aggregate import aggregate
from rlhf_jax.report.sweep_answers import answer, answers
from rlhf_jax.report.sweep_compare import compare, corrected
from rlhf_jax.report.sweep_factors import Factor
from rlhf_jax.report.sweep_plots import looks
from rlhf_jax.report.sweep_question import Question, at
from rlhf_jax.report.sweep_study import read_study
from rlhf_jax.report.sweep_together import interactions

EXACT = [
    "experiment=small",
    "task=token_tree",
    "task.reward=gold",
    "algo.updates=100",
    "algo.clip_eps=0.1,0.2,0.4",
    "algo.kl_coef=0.1,0.5",
    "model.value_head=shared,shared_stop_gradient,separate",
    "seed=range(8)",
]
METRICS = ("after/gold/score", "exact/gap_share")
NAMES = (("reviews", "gold reward (points)"), ("token_tree", "share of the gap left"))
PICTURE = Path(__file__).parents[1] / "docs" / "ablation.png"
RECORD = RESULTS / "question.json"


def run(overrides: list[str], folder: Path) -> Path:
    """One sweep, as a user types it."""
    command = [sys.executable, "-m", "experiments.rlhf", "-m", *overrides]
    subprocess.run([*command, f"hydra.sweep.dir={folder}"], check=True)
    return folder


def factor(question: Question, name: str) -> Factor:
    """A factor by the last word of its key."""
    return next(f for f in question.study.factors if f.name == name)


def panel(axes: Axes, question: Question, head: object, label: str) -> None:
    """Along the KL coefficient, a line for each clip range, at one value head."""
    study, x = question.study, question.scores()
    heads, clips, prices = (factor(question, k) for k in ("value_head", "clip_eps", "kl_coef"))
    places = np.arange(len(prices.values), dtype=float)
    for i, (clip, (color, marker)) in enumerate(zip(clips.values, looks(clips))):
        values = {heads: head, clips: clip}
        found = [aggregate(at(study, x, values | {prices: v}), study.blocks) for v in prices.values]
        shift = 0.08 * (i - (len(clips.values) - 1) / 2)
        y = [question.sign * e.value if e else np.nan for e in found]
        low, high = ([abs(e[k] - e.value) if e else 0.0 for e in found] for k in (1, 2))
        bars = (low, high) if question.sign > 0 else (high, low)
        look = {"color": color, "marker": marker, "markersize": 5, "linewidth": 1.4}
        axes.errorbar(places + shift, y, yerr=bars, label=f"clip {clips.label(clip)}", **look)
    axes.set_xticks(places, [prices.label(v) for v in prices.values])
    style.title(axes, f"value head: {heads.label(head)}", "KL coefficient", label)


def within(question: Question, name: str, fixed: str) -> list[str]:
    """A sentence for each two values of a factor, at each value of another; Holm over all of it."""
    study, x, worst = question.study, question.scores(), question.worst()
    f, g = factor(question, name), factor(question, fixed)
    cases = [(v, *two) for v in g.values for two in itertools.combinations(f.values, 2)]
    part = lambda v, arm: at(study, x, {g: v, f: arm})
    found = corrected([compare(part(v, a), part(v, b), study.blocks, worst) for v, a, b in cases])
    return [
        f"at {g.name} {g.label(v)}: {answer(question, f, a, b, d).sentence}"
        for (v, a, b), d in zip(cases, found)
    ]


def draw(questions: list[Question]) -> None:
    """A row for each task, a panel for each value head; bars are 95 % intervals."""
    figure, panels = style.figure(2, 3)
    for row, (question, (task, label)) in enumerate(zip(questions, NAMES)):
        heads = factor(question, "value_head").values
        shown = panels[3 * row : 3 * row + 3]
        for axes, head in zip(shown, heads):
            panel(axes, question, head, f"{task}: {label}")
        low = min(axes.get_ylim()[0] for axes in shown)
        high = max(axes.get_ylim()[1] for axes in shown)
        for axes in shown:
            axes.set_ylim(low, high)
    style.legend(panels[0])
    style.save(figure, PICTURE)


def main() -> None:
    """Runs what is not given, draws, and says what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "sweeps", nargs="*", type=Path, help="two finished sweeps: on reviews, then on token_tree"
    )
    parser.add_argument(
        "--keep",
        type=Path,
        default=Path("outputs/question"),
        help="where sweeps that are run are kept",
    )
    chosen = parser.parse_args()
    if len(chosen.sweeps) not in (0, 2):
        parser.error("two directories, or none")
    homes = chosen.sweeps or [
        run(SWEEPS["grid"], chosen.keep / "reviews"),
        run(EXACT, chosen.keep / "token_tree"),
    ]
    questions = [Question(read_study([home]), metric) for home, metric in zip(homes, METRICS)]
    draw(questions)
    found = {}
    for question, (task, _) in zip(questions, NAMES):
        told = [answer.sentence for answer in answers(question)]
        mixed = [interaction.sentence for interaction in interactions(question)]
        clips = within(question, "clip_eps", "kl_coef")
        found[task] = {
            "metric": question.column,
            "told": told,
            "clipping": clips,
            "interactions": mixed,
        }
        print(task, *told, *clips, *mixed, sep="\n- ")
    write_json(RECORD, {"facts": run_facts(), **found})


if __name__ == "__main__":
    main()
