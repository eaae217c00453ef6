"""A whole run on a gridworld: rows, summary, parameters and pictures."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from rlhf_jax.checks.classic import check_classic
from rlhf_jax.config import (
    ClassicConfig,
    ClassicPPOConfig,
    ConfigError,
    GridworldConfig,
    NetworkConfig,
    RunConfig,
)
from rlhf_jax.io.jsonl import read_rows
from rlhf_jax.report.grid_load import read_frames
from rlhf_jax.train.classic_run import run_classic

CONFIG = ClassicConfig(
    seed=3,
    seeds=2,
    env=GridworldConfig(layout="corridor", max_steps=20),
    network=NetworkConfig(layers=1, width=8),
    ppo=ClassicPPOConfig(total_steps=500, num_envs=4, num_steps=25, minibatches=2, epochs=1),
    frames=2,
    run=RunConfig(progress=False),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("classic") / "run"
    return path, run_classic(CONFIG, path)


def test_every_update_of_every_seed_is_a_row(run):
    rows = list(read_rows(run[0] / "metrics.jsonl"))
    assert [(r["update"], r["seed"]) for r in rows] == [(u, s) for u in range(1, 6) for s in (3, 4)]
    assert rows[-1]["episode"] == 500
    assert {"exact/regret_share", "exact/value_error", "policy/clipfrac_avg"} <= set(rows[0])
    assert all(np.isfinite(v) for r in rows for v in r.values() if isinstance(v, float))


def test_the_summary_has_final_numbers_of_each_seed(run):
    summary = json.loads((run[0] / "summary.json").read_text())
    assert summary["seeds"] == [3, 4] and summary["environment_steps"] == 1000
    assert len(summary["final"]["episode/return"]) == 2
    last = [r["exact/regret"] for r in read_rows(run[0] / "metrics.jsonl")][-2:]
    assert summary["final"]["exact/regret"] == pytest.approx(last)
    assert (run[0] / "checkpoints" / "policy.safetensors").exists()


def test_pictures_and_what_they_were_drawn_from(run):
    *frames, gif = run[1].pictures
    assert len(frames) == 3  # before, and after either half
    with Image.open(gif) as image:
        assert image.n_frames == 3
    found = read_frames(run[0] / "plots" / "frames.json")
    assert [f.steps for f in found.frames] == [0, 300, 500]
    np.testing.assert_allclose([f.policy.sum(1) for f in found.frames], 1.0, rtol=1e-5)


def test_a_directory_with_a_run_is_refused(run):
    with pytest.raises(ConfigError, match="already holds a run"):
        run_classic(CONFIG, run[0])


@pytest.mark.parametrize(
    "group, changes, message",
    [
        ("ppo", {"minibatches": 3}, r"ppo\.minibatches=3"),
        ("ppo", {"total_steps": 50}, r"ppo\.total_steps=50.*at least.*100"),
        ("ppo", {"surrogate": "reinforce"}, "no ratio"),
        ("ppo", {"surrogate": "dual_clip", "dual_clip": 0.5}, "above 1"),
        ("ppo", {"gamma": 1.5}, r"ppo\.gamma=1\.5"),
        ("ppo", {"minibatches": 100}, "no variance"),
        ("network", {"layers": 0, "value_sharing": "separate_matched"}, "no trunk"),
        ("env", {"slip": 2.0}, r"env\.slip"),
    ],
)
def test_settings_that_cannot_work_are_refused(group, changes, message):
    part = dataclasses.replace(getattr(CONFIG, group), **changes)
    check_classic(CONFIG)
    with pytest.raises(ConfigError, match=message):
        check_classic(dataclasses.replace(CONFIG, **{group: part}))
