"""A mistake in a setting costs one line: the key, its value and what would be accepted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = {
    # what is typed: what the line must contain
    "algo.updats=3": ["algo.updats", "did you mean algo.updates?"],
    "nothing=3": ["nothing", "accepted: seed, resume, task, model"],
    "algo.updates=many": ["algo.updates", "many", "int"],
    "algo.clip_eps=wide": ["algo.clip_eps", "wide", "float"],
    "algo.kl_controller=maybe": ["algo.kl_controller='maybe'", "adaptive, fixed"],
    "task=poems": ["task=poems", "must be one of imdb, jsonl, reviews"],
    "model=huge": ["model=huge", "must be one of base, small, tiny"],
    "algo.minibatches=3": ["algo.minibatches=3", "must divide algo.batch_size=128"],
    "task.max_prompt=60": ["model.context=64", "task.max_prompt", "at least 85"],
    "resume=no/such/run": ["resume='no/such/run'", "not a run directory"],
}


def run(folder, module, *arguments, **options):
    env = os.environ | {"PYTHONPATH": str(ROOT), "RLHF_JAX_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", f"experiments.{module}", *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, **options)


def error_line(done):
    """The one line on the error stream of a program that failed as it should."""
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    return lines[0]


@pytest.mark.parametrize("argument", CASES)
def test_a_mistake_is_one_line(tmp_path, argument):
    line = error_line(run(tmp_path, "rlhf", argument))
    assert [part for part in CASES[argument] if part.lower() not in line.lower()] == [], line


GENERATE = {
    "": ["run=None", "give the directory of a finished run"],
    "run=no/such/run": ["run='no/such/run'", "not a run directory"],
    "run=unfinished": ["run='unfinished'", "not finished", "resume=unfinished"],
    "num_samples=0": ["num_samples=0", "above 0"],
    "sampling.temperature=0": ["sampling.temperature=0.0", "above 0"],
    "device=abacus": ["device='abacus'", "auto, cpu, gpu, tpu"],
}


@pytest.mark.parametrize("argument", GENERATE)
def test_generate_says_what_it_needs_in_one_line(tmp_path, argument):
    saved = tmp_path / "unfinished" / ".hydra"
    saved.mkdir(parents=True)
    (saved / "config.yaml").write_text("task:\n  name: reviews\n")
    line = error_line(run(tmp_path, "generate", *filter(None, [argument])))
    assert [part for part in GENERATE[argument] if part.lower() not in line.lower()] == [], line
    assert {p.name for p in tmp_path.iterdir()} == {"unfinished"}  # it leaves nothing behind


def test_help_names_every_group(tmp_path):
    done = run(tmp_path, "rlhf", "--help")
    assert done.returncode == 0
    assert all(f"{group}:" in done.stdout for group in ("task", "model", "algo", "optim", "sink"))
