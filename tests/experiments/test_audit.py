"""An audit from the command line: what it leaves, at which policy, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments.audit import AuditConfig, check_audit, settings_of
from rlhf_jax.config import (
    BestOfNConfig,
    ConfigError,
    PolicyGradientConfig,
    PreferenceConfig,
    RLHFConfig,
    RunConfig,
)

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "model.layers=1", "model.width=16", "model.heads=2", "model.kv_heads=1", "model.ff_width=32",
    "sft.steps=20", "reward_model.steps=20", "sft.log_every=10", "reward_model.log_every=10",
    "algo.updates=3", "algo.batch_size=8", "algo.minibatches=2", "eval.num_prompts=16",
    "task.num_texts=200", "task.num_pairs=64", "task.num_prompts=32", "sampling.max_length=8",
]  # fmt: skip


def run(folder, module, *arguments):
    path, cache = f"{ROOT}{os.pathsep}{folder}", str(folder / "cache")
    env = os.environ | {"PYTHONPATH": path, "RLHF_JAX_CACHE": cache}
    command = [sys.executable, "-m", f"experiments.{module}", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished run in `run` and an audit of it in `audit`."""
    folder = tmp_path_factory.mktemp("audit")
    cache = f"run.cache_dir={folder}/stages"
    done = run(folder, "rlhf", *SMALL, cache, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    done = run(folder, "audit", "run=run", "steps=3", "batch_size=16", "hydra.run.dir=audit")
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.slow
def test_an_audit_of_a_finished_run_leaves_all_it_promised(finished):
    folder, done = finished
    assert done.stderr == ""
    assert (folder / "audit" / "plots" / "audit.png").read_bytes()[:4] == b"\x89PNG"
    record = json.loads((folder / "audit" / "audit.json").read_text())
    names = [arm["name"] for arm in record["arms"]]
    assert {"clip", "none", "gspo", "reward k1", "loss full", "loss k3 x ratio"} <= set(names)
    table = (folder / "audit" / "audit.csv").read_text().splitlines()
    assert len(table) == len(names) + 1 == len(record["cosines"]) + 1
    assert np.array(record["cosines"], float).shape == (len(names), len(names))
    assert all(arm["grad_norm"] > 0 for arm in record["arms"])
    assert record["first_step"]["cosine"] > 0.9999
    place = record["place"]
    assert (place["steps"], place["steps_per_update"], place["completions"]) == (3, 16, 16)
    assert (place["policy"], place["updates"]) == ("ppo", 3)
    assert "Every loss on the same samples" in done.stdout and "text KL" in done.stdout


@pytest.mark.slow
def test_it_stands_where_the_run_ended(finished):
    folder, _ = finished
    record = json.loads((folder / "audit" / "audit.json").read_text())
    rows = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    last = [json.loads(row) for row in rows][-1]
    kl, coefficient = last["objective/kl"], last["objective/kl_coef"]
    moved = 1 + np.clip(kl / 6.0 - 1, -0.2, 0.2) * 8 / 1000  # the controller after that row
    assert record["place"]["kl_coef"] == pytest.approx(coefficient * moved, rel=1e-5)


@pytest.mark.slow
def test_without_a_run_it_trains_a_little_also_on_a_reward_of_the_users_own(finished):
    folder, _ = finished
    (folder / "mine.py").write_text("def score(texts):\n    return [len(t) / 50 for t in texts]\n")
    own = ["task.reward=mine:score", "updates=1", "steps=0", "run.progress=false"]
    cache = f"run.cache_dir={folder}/stages"
    done = run(folder, "audit", *SMALL, cache, *own, "hydra.run.dir=alone")
    assert done.returncode == 0, done.stderr
    assert "sft: an earlier run trained the same" in done.stdout
    record = json.loads((folder / "alone" / "audit.json").read_text())
    place = record["place"]
    assert (place["updates"], place["steps"], place["completions"]) == (1, 0, 32)
    arms = {arm["name"]: arm for arm in record["arms"]}
    assert arms["none"]["cosine"] == pytest.approx(1.0, abs=1e-4)  # nothing was learnt yet
    assert arms["clip"]["clip_fraction"] == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, wanted",
    [
        (["run=nowhere"], "run='nowhere': not a run directory"),
        (["run=run", "model.width=32"], "model.width=32: run=run has decided it; leave it out"),
        (["run=run", "batch_size=6"], "batch_size=6: must be a multiple of 4"),
        (["run=run", "hydra.run.dir=audit"], "already holds a run; choose another"),
        (["run=run", "steps=1000"], "one update has 32 steps on its samples; use 32 or fewer"),
        (["algo=dpo"], "algo='dpo': has no loss on samples of its own"),
    ],
)
def test_a_mistake_is_one_line(finished, arguments, wanted):
    done = run(finished[0], "audit", *arguments)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert wanted in lines[0]


def test_what_was_typed_goes_over_the_runs_algorithm():
    trained = RLHFConfig(algo=PolicyGradientConfig(clip_eps=0.1, kl_coef=0.4), seed=7)
    config = AuditConfig(policy="x", algo=PolicyGradientConfig(gamma=0.9), run=RunConfig(threads=1))
    found = settings_of(config, ["policy=x", "algo.gamma=0.9", "run.threads=1"], trained)
    assert found.algo == PolicyGradientConfig(clip_eps=0.1, kl_coef=0.4, gamma=0.9)
    assert (found.seed, found.run.threads) == (7, 1)
    assert settings_of(config, ["policy=x", "algo=ppo"], trained).algo == config.algo


def test_a_run_without_samples_is_audited_with_the_losses_of_another():
    trained = RLHFConfig(algo=PreferenceConfig())
    config = AuditConfig(policy="x")
    found = settings_of(config, ["policy=x"], trained)
    assert found.algo == config.algo and isinstance(found.algo, PolicyGradientConfig)
    check_audit(config, found)
    with pytest.raises(ConfigError, match="updates=3"):
        settings_of(config, ["policy=x", "updates=3"], trained)


def test_a_run_that_trained_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"run='x': best_of_n trained nothing.* updates=0"):
        settings_of(AuditConfig(policy="x"), ["policy=x"], RLHFConfig(algo=BestOfNConfig()))


def test_an_audit_is_not_resumed():
    with pytest.raises(ConfigError, match="use run=DIR"):
        settings_of(AuditConfig(resume="x"), ["resume=x"], None)
