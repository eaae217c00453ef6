"""Pictures of one run: how each stage learned, and what the policy paid for its reward."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes

from rlhf_jax.report import style
from rlhf_jax.report.load import Columns, facts_of, load_metrics, load_summary
from rlhf_jax.report.names import algorithm, labelled
from rlhf_jax.report.style import COLORS

TUNED = "tuned"  # the stage that improves the policy, whatever its algorithm is called
REWARDS = {
    "objective/scores": ("score trained on", COLORS.blue),
    "gold/score": ("gold (the truth)", COLORS.orange),
}


class Run(NamedTuple):
    """A run as read from disk."""

    stages: Mapping[str, Columns]  # that of the algorithm under TUNED
    facts: Mapping[str, float]
    name: str = "ppo"  # of the algorithm

    @property
    def updates(self) -> str:
        """What the algorithm counts, as on an axis."""
        if self.name == "best_of_n":
            return "completions to choose from (n)"
        return f"{algorithm(self.name)} update"

    def column(self, stage: str, name: str) -> np.ndarray | None:
        """A column, None if the run has none."""
        return self.stages.get(stage, {}).get(name)


class Panel(NamedTuple):
    """One plot: draws on axes, and needs at least one of these columns."""

    draw: Callable[[Axes, Run], None]
    needs: tuple[tuple[str, str], ...]

    def has_data(self, run: Run) -> bool:
        """Whether the run logged anything this plot shows."""
        return any(run.column(*need) is not None for need in self.needs)


def plot_run(run_dir: str | os.PathLike[str]) -> list[Path]:
    """Draws every plot the run has data for into `plots/`.

    Args:
      run_dir: a run directory with `metrics.jsonl`, and `summary.json` if the run has ended.

    Returns:
      The pictures written, `plots/overview.png` first.

    Raises:
      FileNotFoundError: the run has no `metrics.jsonl`.
    """
    folder = Path(run_dir)
    facts = facts_of(load_summary(folder / "summary.json"))
    run = read_run(load_metrics(folder / "metrics.jsonl"), facts)
    panels = {name: panel for name, panel in PANELS.items() if panel.has_data(run)}
    if not panels:
        return []
    (folder / "plots").mkdir(exist_ok=True)
    paths = [_overview(folder / "plots" / "overview.png", panels, run)]
    return paths + [_single(folder / "plots" / f"{n}.png", p, run) for n, p in panels.items()]


def read_run(stages: dict[str, Columns], facts: Mapping[str, float]) -> Run:
    """A run whose algorithm is the stage that is not one of the supervised ones."""
    names = [name for name in stages if name not in ("sft", "reward_model")]
    if not names:
        return Run(stages, facts)
    others = {k: v for k, v in stages.items() if k != names[-1]}
    return Run(others | {TUNED: stages[names[-1]]}, facts, names[-1])


def _single(path: Path, panel: Panel, run: Run) -> Path:
    figure, grid = style.figure(1, 1)
    panel.draw(grid[0], run)
    return style.save(figure, path)


def _overview(path: Path, panels: Mapping[str, Panel], run: Run) -> Path:
    chosen = [panels[name] for name in OVERVIEW if name in panels]
    chosen = (chosen or list(panels.values()))[:6]
    columns = min(3, len(chosen))
    figure, grid = style.figure(-(-len(chosen) // columns), columns)
    for axes, panel in zip(grid, chosen):
        panel.draw(axes, run)
    for axes in grid[len(chosen) :]:
        axes.set_visible(False)
    return style.save(figure, path)


def draw_reward(axes: Axes, run: Run) -> None:
    """The score trained on and the gold reward against the update."""
    style.title(axes, "Reward of the texts", run.updates, "mean score of the texts (points)")
    _curves(axes, run, TUNED, REWARDS)
    style.legend(axes)


def draw_frontier(axes: Axes, run: Run) -> None:
    """Reward against the distance from the reference."""
    style.title(axes, "What each nat of KL buys", labelled("objective/kl"), "mean score (points)")
    kl = run.column(TUNED, "objective/kl")
    for name, (label, color) in REWARDS.items():
        column = run.column(TUNED, name)
        if kl is not None and column is not None:
            style.cloud(axes, kl, column, _updates(run, TUNED), color, label)
    style.legend(
        axes, title="darker: larger n" if run.name == "best_of_n" else "darker: later update"
    )


def draw_kl(axes: Axes, run: Run) -> None:
    """KL to the reference with its target, and the coefficient that steers it."""
    style.title(axes, "Distance from the SFT policy", run.updates, labelled("objective/kl"))
    _curves(axes, run, TUNED, {"objective/kl": ("KL", COLORS.blue)})
    _level(axes, run, "kl_target", "target")
    if "kl_target" in run.facts:
        style.name_level(axes, run.facts["kl_target"], "target")
    coefficient = run.column(TUNED, "objective/kl_coef")
    if coefficient is not None:
        right = style.second_axis(axes, labelled("objective/kl_coef"), COLORS.orange)
        style.line(right, _updates(run, TUNED), coefficient, COLORS.orange, noisy=False)


def draw_entropy(axes: Axes, run: Run) -> None:
    """Entropy of the policy."""
    style.title(axes, "Variety of the texts", run.updates, labelled("objective/entropy"))
    if run.column(TUNED, "objective/entropy") is None:
        axes.set_ylabel(labelled("policy/entropy_avg"))
        _curves(axes, run, TUNED, {"policy/entropy_avg": ("entropy", COLORS.blue)})
    else:
        _curves(axes, run, TUNED, {"objective/entropy": ("entropy", COLORS.blue)})
    axes.set_ylim(bottom=0)


def draw_length(axes: Axes, run: Run) -> None:
    """Length of completions."""
    style.title(axes, "Length of the texts", run.updates, "mean completion length (tokens)")
    name = "tokens/completion_length"
    _curves(axes, run, TUNED, {name: ("length", COLORS.blue)})
    axes.set_ylim(bottom=0)


def draw_losses(axes: Axes, run: Run) -> None:
    """Policy and value loss."""
    style.title(axes, "Losses", run.updates, labelled("loss/value_avg"))
    _curves(axes, run, TUNED, {"loss/value_avg": ("value", COLORS.blue)})
    policy = run.column(TUNED, "loss/policy_avg")
    if policy is not None:
        right = style.second_axis(axes, "policy loss", COLORS.orange)
        style.line(right, _updates(run, TUNED), policy, COLORS.orange)


def draw_implied_rewards(axes: Axes, run: Run) -> None:
    """The rewards a policy implies for chosen and rejected texts."""
    style.title(axes, "Rewards the policy implies", run.updates, "mean implied reward (points)")
    chosen, rejected = ("chosen", COLORS.blue), ("rejected", COLORS.orange)
    _curves(axes, run, TUNED, {"rewards/chosen": chosen, "rewards/rejected": rejected})
    style.legend(axes)


def draw_implied_accuracy(axes: Axes, run: Run) -> None:
    """How many pairs the implied rewards rank right."""
    style.title(axes, "Pairs ranked right by the policy", run.updates, "pairs ranked right (share)")
    training, heldout = ("training", COLORS.blue), ("held out", COLORS.orange)
    curves = {"rewards/accuracies": training, "heldout_accuracy": heldout}
    _curves(axes, run, TUNED, curves)
    _level(axes, run, "bayes_pair_accuracy", "best possible")
    style.legend(axes)


def draw_loss(axes: Axes, run: Run) -> None:
    """The one loss of an algorithm without a value function."""
    style.title(axes, "Loss", run.updates, "loss")
    _curves(axes, run, TUNED, {"loss": ("training", COLORS.blue)})


def draw_gap(axes: Axes, run: Run) -> None:
    """Distance to the known optimum, as a share of that at the start."""
    style.title(axes, "Distance to the known optimum", run.updates, labelled("exact/gap_share"))
    _curves(axes, run, TUNED, {"exact/gap_share": ("gap", COLORS.blue)})
    axes.set_yscale("log")


def draw_sft(axes: Axes, run: Run) -> None:
    """Supervised loss with the entropy of the texts as its floor."""
    style.title(axes, "Supervised fine-tuning", "step", "cross-entropy (nats per token)")
    _learning(axes, run, "sft", "loss", best="entropy_per_token")


def draw_reward_model(axes: Axes, run: Run) -> None:
    """Accuracy of the reward model with the best a model can reach."""
    style.title(axes, "Reward model", "step", "pairs ranked right (share)")
    _learning(axes, run, "reward_model", "accuracy", best="bayes_pair_accuracy")


def draw_reward_model_loss(axes: Axes, run: Run) -> None:
    """Loss of the reward model."""
    style.title(axes, "Reward model loss", "step", "loss (nats per pair)")
    _curves(axes, run, "reward_model", {"loss": ("training", COLORS.blue)})


def _learning(axes: Axes, run: Run, stage: str, metric: str, best: str) -> None:
    """A metric on training and on held-out data, and the best value it can have."""
    training, heldout = ("training", COLORS.blue), ("held out", COLORS.orange)
    _curves(axes, run, stage, {metric: training, f"heldout_{metric}": heldout})
    _level(axes, run, best, "best possible")
    style.legend(axes)


def _curves(axes: Axes, run: Run, stage: str, curves: Mapping[str, tuple[str, str]]) -> None:
    for name, (label, color) in curves.items():
        column = run.column(stage, name)
        if column is not None:
            style.line(axes, _updates(run, stage), column, color, label)


def _updates(run: Run, stage: str) -> np.ndarray:
    table = run.stages[stage]
    return table.get("update", np.arange(len(next(iter(table.values()))), dtype=float))


def _level(axes: Axes, run: Run, fact: str, label: str) -> None:
    if fact in run.facts:
        style.level(axes, run.facts[fact], label)


PANELS = {
    "reward": Panel(draw_reward, ((TUNED, "objective/scores"), (TUNED, "gold/score"))),
    "reward_kl": Panel(draw_frontier, ((TUNED, "objective/kl"),)),
    "kl": Panel(draw_kl, ((TUNED, "objective/kl"),)),
    "entropy": Panel(draw_entropy, ((TUNED, "objective/entropy"), (TUNED, "policy/entropy_avg"))),
    "length": Panel(draw_length, ((TUNED, "tokens/completion_length"),)),
    "losses": Panel(draw_losses, ((TUNED, "loss/value_avg"), (TUNED, "loss/policy_avg"))),
    "implied_rewards": Panel(draw_implied_rewards, ((TUNED, "rewards/chosen"),)),
    "implied_accuracy": Panel(draw_implied_accuracy, ((TUNED, "rewards/accuracies"),)),
    "loss": Panel(draw_loss, ((TUNED, "loss"),)),
    "gap": Panel(draw_gap, ((TUNED, "exact/gap_share"),)),
    "sft": Panel(draw_sft, (("sft", "loss"), ("sft", "heldout_loss"))),
    "reward_model": Panel(
        draw_reward_model, (("reward_model", "accuracy"), ("reward_model", "heldout_accuracy"))
    ),
    "reward_model_loss": Panel(draw_reward_model_loss, (("reward_model", "loss"),)),
}
OVERVIEW = (
    *("sft", "reward_model", "reward", "reward_kl", "gap", "kl", "length"),
    *("implied_rewards", "implied_accuracy", "loss"),
)
