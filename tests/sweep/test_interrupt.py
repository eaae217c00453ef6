"""A sweep that is stopped by Ctrl-C, as a user would stop it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOBS = 50
TYPED = (
    "-m", "hydra.sweep.dir=s", f"seed=range({JOBS})", "stage_seed=0", "task=bandit",
    "task.num_texts=64", "task.num_pairs=32", "model.layers=1", "model.width=16", "model.heads=2",
    "model.kv_heads=1", "model.ff_width=32", "model.context=8", "sft.steps=2", "sft.log_every=1",
    "reward_model.steps=2", "reward_model.log_every=1", "sampling.max_length=1",
    "algo=reinforce", "algo.updates=400", "algo.batch_size=8",
    "eval.num_prompts=4", "run.progress=false", "sweep.workers=1", "sweep.max_lanes=1",
)  # fmt: skip


@pytest.fixture
def stopped(tmp_path):
    """A sweep that got Ctrl-C when its first job had ended: exit code and error stream."""
    env = os.environ | {"PYTHONPATH": str(ROOT), "RLHF_JAX_CACHE": str(tmp_path / "cache")}
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.rlhf", *TYPED],
        cwd=tmp_path, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        limit = time.monotonic() + 240
        while not list(tmp_path.glob("s/*/summary.json")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < limit
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    return process.returncode, errors.strip().splitlines()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="looks for processes in /proc")
def test_what_is_finished_stays_and_nothing_goes_on(stopped, tmp_path):
    code, errors = stopped
    assert (code, errors[-1]) == (2, "error: interrupted; go on with -m resume=s")
    ended = [json.loads(path.read_text()) for path in tmp_path.glob("s/*/summary.json")]
    assert 1 <= len(ended) < JOBS and {summary["status"] for summary in ended} == {"finished"}
    assert not list(tmp_path.glob("s/*/error.json"))  # those that were stopped did not fail
    (group,) = json.loads((tmp_path / "s" / "sweep.json").read_text())["groups"]
    assert group["compiles"] == 1 and group["error"] is None
    assert (tmp_path / "s" / "report" / "index.html").exists()
    assert not [path for path in Path("/proc").glob("[0-9]*/cwd") if folder_of(path) == tmp_path]


def folder_of(path):
    """Where a process runs; None for one that has gone."""
    try:
        return path.readlink()
    except OSError:
        return None
