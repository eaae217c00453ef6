"""Pictures: every panel is drawn when its data is there, and nothing needs all of it."""

import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from rlhf_jax.report import plots, style
from rlhf_jax.report.plots import PANELS, TUNED, Run, plot_run

PPO = (
    "objective/kl", "objective/kl_coef", "objective/entropy", "objective/scores", "gold/score",
    "loss/policy_avg", "loss/value_avg", "tokens/completion_length",
)  # fmt: skip
STAGES = {
    "sft": ("loss", "heldout_loss"),
    "reward_model": ("loss", "accuracy", "heldout_accuracy"),
    "ppo": PPO,
}
DPO = ("loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "heldout_accuracy")
FACTS = {"facts": {"entropy_per_token": 1.5, "bayes_pair_accuracy": 0.9}, "kl_target": 6.0}


def write_run(folder, stages, updates=5, summary=FACTS):
    random = np.random.default_rng(0)
    rows = [
        {"stage": stage, "update": u, **{n: float(random.uniform()) for n in names}}
        for stage, names in stages.items()
        for u in range(1, updates + 1)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "metrics.jsonl").write_text(text)
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))


def run_of(updates=5, **columns):
    table = {"update": np.arange(1.0, updates + 1)}
    table |= {name.replace("__", "/"): np.asarray(column) for name, column in columns.items()}
    return Run({TUNED: table}, {"kl_target": 6.0})


def test_a_whole_run_gives_every_plot(tmp_path):
    write_run(tmp_path, STAGES)
    paths = plot_run(tmp_path)
    of_others = {"implied_rewards", "implied_accuracy", "loss", "gap"}
    assert [p.stem for p in paths] == ["overview", *(n for n in PANELS if n not in of_others)]
    assert all(p.parent == tmp_path / "plots" for p in paths)
    assert imread(paths[0]).shape[:2] == (2 * 510, 3 * 690)


def test_a_run_whose_optimum_is_known_shows_the_distance(tmp_path):
    write_run(tmp_path, {"ppo": (*PPO, "exact/gap_share")})
    assert "gap" in {p.stem for p in plot_run(tmp_path)}


def test_a_run_on_pairs_has_plots_of_its_own(tmp_path):
    write_run(tmp_path, {"sft": STAGES["sft"], "simpo": DPO})
    drawn = {p.stem for p in plot_run(tmp_path)}
    assert drawn == {"overview", "sft", "implied_rewards", "implied_accuracy", "loss"}


@pytest.mark.parametrize("stage", STAGES)
def test_one_stage_alone_without_summary(tmp_path, stage):
    write_run(tmp_path, {stage: STAGES[stage]}, updates=1, summary=None)
    assert len(plot_run(tmp_path)) > 1


def test_nothing_logged_gives_nothing(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    assert plot_run(tmp_path) == [] and not (tmp_path / "plots").exists()


def test_long_runs_with_gaps(tmp_path):
    kl = np.linspace(0, 8, 100)
    score = np.where(np.arange(100) % 7 == 0, np.nan, np.sqrt(kl))
    run = run_of(100, objective__kl=kl, objective__scores=score, gold__score=score)
    for name in ("reward", "reward_kl", "kl"):
        assert plots._single(tmp_path / f"{name}.png", PANELS[name], run).exists()


def test_kl_plot_shows_target_and_coefficient():
    run = run_of(3, objective__kl=[1.0, 2.0, 3.0], objective__kl_coef=[0.1, 0.1, 0.2])
    figure, (axes,) = style.figure(1, 1)
    plots.draw_kl(axes, run)
    right = figure.axes[1]
    assert [text.get_text() for text in axes.texts] == ["target (6)"]
    assert axes.get_ylabel() == "KL from the start (nats/text)"
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [1, 2, 3])
    np.testing.assert_array_equal(right.lines[0].get_ydata(), [0.1, 0.1, 0.2])


def test_smooth_keeps_a_straight_line():
    line = np.arange(20.0)
    np.testing.assert_allclose(style.smooth(line, 4), line)


def test_report_never_imports_jax():
    code = "import sys, rlhf_jax.report.plots; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
