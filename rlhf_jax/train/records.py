"""What a finished run tells: numbers before and after, and completions side by side."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from rlhf_jax.config import BestOfNConfig, PolicyGradientConfig, RLHFConfig
from rlhf_jax.tasks.protocol import Task
from rlhf_jax.train.evaluate import Evaluation
from rlhf_jax.train.exactly import fixed_price
from rlhf_jax.train.loop import Session
from rlhf_jax.train.pipeline import Outcome
from rlhf_jax.train.scoring import ScoreHost, prompt_and_completion

Columns = dict[str, np.ndarray]  # metric name to one number a completion


def columns(
    config: RLHFConfig, task: Task, score_host: ScoreHost | None, evaluation: Evaluation
) -> Columns:
    """Everything known about each completion; `objective/scores` is the reward trained on."""
    learned, name = np.asarray(evaluation.reward), config.task.reward
    if score_host is not None:
        scores = score_host(evaluation.rollout)
    elif name in task.rewards:
        rollout = evaluation.rollout
        scores = np.asarray(jax.jit(task.rewards[name])(rollout.tokens(), rollout.mask()))
    else:
        scores = np.asarray(evaluation.gold) if name == "gold" else learned
    found = {"objective/scores": scores}
    if config.task.reward != "reward_model":
        found["reward_model/score"] = learned
    return found | {
        "objective/kl": np.asarray(evaluation.kl),
        "policy/entropy_avg": np.asarray(evaluation.entropy),
        "tokens/completion_length": np.asarray(evaluation.length),
    }


def numbers(task: Task, evaluation: Evaluation, known: Columns) -> dict[str, float]:
    """Means over the completions, with the spread of the gold reward."""
    found = {} if task.gold is None else {"gold/score": float(np.mean(evaluation.gold))}
    found |= {k: float(np.mean(v)) for k, v in known.items()}
    ended = np.any(evaluation.rollout.completion_tokens == task.codec.eos_id, axis=1)
    found["tokens/finished"] = float(np.mean(ended))
    if task.gold is not None:
        found["gold/std"] = float(np.std(evaluation.gold))
    if task.judge is not None:
        completions = [text for _, text in prompt_and_completion(task.codec, evaluation.rollout)]
        positive = np.asarray(task.judge(completions))
        found["judge/score"] = float(np.mean(positive))
        found["judge/positive"] = float(np.mean(positive > 0.5))
    return found


def summarize(
    config: RLHFConfig,
    task: Task,
    session: Session,
    outcome: Outcome,
    known: dict[str, Columns],
) -> dict[str, Any]:
    """The content of summary.json, but for versions and hardware."""
    return {
        "task": config.task.name,
        "algo": config.algo.name,
        "seed": config.seed,
        "before": numbers(task, outcome.before, known["before"])
        | distance(config, task, outcome.before),
        "after": numbers(task, outcome.after, known["after"])
        | distance(config, task, outcome.after),
        "facts": dict(task.facts),
        "stages": session.stages,
        "kl_target": kl_target(config),
    }


def distance(config: RLHFConfig, task: Task, evaluation: Evaluation) -> dict[str, float]:
    """How far the policy is from a known optimum whose texts are too many to list.

    The optimum is that of the task's source in the place of the reference, so the number before
    training is the distance the supervised model has by not being the source.

    Only where the reward is the true one and the price of a nat is fixed.
    """
    beta = fixed_price(config.algo)
    if task.sampled_gap is None or config.task.reward != "gold" or not beta:
        return {}
    rollout = evaluation.rollout
    drawn = np.where(rollout.completion_mask, rollout.behavior_log_probs, 0.0).sum(axis=1)
    return dict(task.sampled_gap(beta, np.asarray(rollout.tokens()), drawn))


def kl_target(config: RLHFConfig) -> float | None:
    """Where a controller holds the KL, in nats a sequence; None without one."""
    algo = config.algo
    if not isinstance(algo, PolicyGradientConfig) or algo.kl_controller != "adaptive":
        return None
    return algo.kl_target if algo.kl_unit == "sequence" else None


def side_by_side(
    config: RLHFConfig, task: Task, outcome: Outcome, known: dict[str, Columns]
) -> list[dict[str, Any]]:
    """Each evaluation prompt with its completion before and after, and their scores."""
    sides = {"before": outcome.before, "after": outcome.after}
    texts = {k: prompt_and_completion(task.codec, e.rollout) for k, e in sides.items()}
    scores = {k: shown_columns(config, task, e, known[k]) for k, e in sides.items()}
    rows = []
    for i, (prompt, _) in enumerate(texts["before"]):
        row: dict[str, Any] = {"prompt": prompt}
        for side in sides:
            row[side] = texts[side][i][1]
            row[f"{side}_scores"] = {k: float(v[i]) for k, v in scores[side].items()}
        rows.append(row)
    return rows


def shown_columns(
    config: RLHFConfig, task: Task, evaluation: Evaluation, known: Columns
) -> Columns:
    """What is told about single completions."""
    kept = {k: v for k, v in known.items() if k in ("objective/scores", "reward_model/score")}
    if not isinstance(config.algo, BestOfNConfig):  # which has no log-ratio, only a KL of its own
        kept["log_ratio"] = known["objective/kl"]  # of one text; only its mean is a divergence
    if task.gold is None or config.task.reward == "gold":
        return kept
    return {"gold/score": np.asarray(evaluation.gold)} | kept
