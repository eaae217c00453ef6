"""Made-up sweeps with known effects, as they would lie on disk."""

from __future__ import annotations

import collections
import itertools
import json

import numpy as np
import yaml

UPDATES = 60
BASIC = {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"}
OPTUNA = {"_target_": "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"}


def write_sweep(
    root,
    factors,
    seeds=8,
    effect=lambda setting: 0.0,
    spread=0.1,
    seed_spread=0.3,
    fate=lambda number: "finished",
    groups=None,
    exact=False,
    draw=0,
    **more,
):
    """Every combination of `factors` (key to values) for every seed; returns the scores.

    Args:
      seeds: how many, or which.
      effect: setting (key to value) to what it adds to the score.
      spread, seed_spread: of the noise of a run, and of what all runs of a seed share.
      draw: of the noise.
      fate: of a job: finished, diverged, failed or unfinished.
      more: of `write_job`.
    """
    rng = np.random.default_rng(draw)
    seeds = range(seeds) if isinstance(seeds, int) else seeds
    shared = dict(zip(seeds, seed_spread * rng.standard_normal(len(seeds))))
    scores = {}
    names = list(factors)
    for number, (*values, seed) in enumerate(itertools.product(*factors.values(), seeds)):
        setting = dict(zip(names, values))
        score = 1.0 + shared[seed] + effect(setting) + spread * rng.standard_normal()
        scores[(*values, seed)] = score
        home = root / str(number)
        write_job(home, number, setting | {"seed": seed}, score, fate(number), rng, exact, **more)
    (root / "multirun.yaml").write_text("hydra: {}\n")
    if groups:
        (root / "sweep.json").write_text(json.dumps(groups))
    return scores


def write_job(home, number, typed, score, fate, rng, exact=False, held=None, sweeper=None):
    """One job's directory; `held` are settings that were not typed, `sweeper` is Hydra's."""
    (home / ".hydra").mkdir(parents=True)
    config = {"seed": 0, "stage_seed": None, "sweep": {"objective": "gold/score"}}
    config |= {"algo": {"name": "ppo", "kl_coef": 0.05, "clip_eps": 0.2}}
    config["optim"] = {"learning_rate": 1e-4}
    config |= {
        "task": {"name": "reviews"},
        "model": {"value_head": "separate"},
        "run": {"threads": 1},
    }
    for key, value in ((held or {}) | typed).items():
        parent, _, leaf = key.rpartition(".")
        (config[parent] if parent else config)[leaf] = value
    (home / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    (home / ".hydra" / "overrides.yaml").write_text(
        json.dumps([f"{k}={v}" for k, v in typed.items()])
    )
    hydra = {"job": {"num": number}, "runtime": {"choices": {"task": "reviews", "algo": "ppo"}}}
    hydra["sweeper"] = sweeper or BASIC
    (home / ".hydra" / "hydra.yaml").write_text(json.dumps({"hydra": hydra}))
    kl = 8.0 * np.exp(-8 * config["algo"]["kl_coef"]) * rng.lognormal(0, 0.05)
    write_curves(home, score, kl, rng, exact, UPDATES if fate == "finished" else UPDATES // 3)
    if fate == "unfinished":
        return
    if fate == "failed":
        error = {"status": "failed", "error": "XlaRuntimeError: out of memory", "trace": "..."}
        (home / "error.json").write_text(json.dumps(error))
        return
    after = numbers(score, kl) if fate == "finished" else dict.fromkeys(numbers(score, kl))
    summary = {
        "status": fate, "task": "reviews", "algo": "ppo", "seed": typed["seed"],
        "before": numbers(0.0, 0.0), "after": after, "facts": {},
        "stages": {"sft": {"seconds": 1.0}, "ppo": {"seconds": 4.0, "compile_seconds": 6.0}},
        "seconds": 12.5, "config_hash": f"{number:016x}",
        "versions": {"python": "3.11", "jax": "0.10.2"},
        "platform": "cpu", "device_kind": "cpu", "cores": 2, "git_commit": "0" * 40,
    }  # fmt: skip
    (home / "summary.json").write_text(json.dumps(summary))
    texts = [
        {
            "prompt": f"This film {i}", "before": "was on for two hours.",
            "after": "was a joy from start to end.",
            "before_scores": {"gold/score": -0.2, "log_ratio": 0.0},
            "after_scores": {"gold/score": 1.3, "log_ratio": 4.0},
        }
        for i in range(8)
    ]  # fmt: skip
    (home / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))


def numbers(score, kl):
    return {
        "gold/score": score, "objective/scores": 1.2 * score, "objective/kl": kl,
        "policy/entropy_avg": 2.0 - 0.1 * kl, "tokens/completion_length": 20.0 + kl,
    }  # fmt: skip


def write_curves(home, score, kl, rng, exact, updates):
    learnt = 1 - np.exp(-3 * np.arange(1, UPDATES + 1) / UPDATES)
    learnt /= learnt[-1]
    rows = []
    for i, part in enumerate(learnt[:updates]):
        row = {"stage": "ppo", "update": i + 1, "seconds": 0.1 * i, "episode": 64.0 * (i + 1)}
        row |= numbers(score * np.sqrt(part) + 0.05 * rng.standard_normal(), kl * part)
        if exact:
            row |= {"exact/gap_share": float(np.exp(-3 * part * score)), "exact/kl": kl * part}
            row["exact/reward"] = score * float(np.sqrt(part))
        rows.append(row)
    sft = [{"stage": "sft", "update": 50 * i, "loss": 3.0 - 0.1 * i} for i in range(1, 4)]
    lines = [json.dumps(row) for row in (*sft, *rows)]
    (home / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def without_pictures(monkeypatch):
    """Pages are only read, not looked at: drawing is what takes the time."""
    nothing = lambda *_: collections.defaultdict(list)
    monkeypatch.setattr("rlhf_jax.report.sweep.pictures", nothing)
