"""A mistake in a setting costs one line: the key, its value and what would be accepted."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments._cli import Program

ROOT = Path(__file__).resolve().parents[2]
CASES = {
    # what is typed: what the line must contain
    "algo.updats=3": ["algo.updats=3: unknown key", "did you mean algo.updates?"],
    "nothing=3": ["nothing=3", "accepted: seed, stage_seed, resume, task"],
    "+nothing=3": ["error: nothing=3: unknown key", "accepted: seed, stage_seed, resume, task"],
    "+algo.nothing=3": ["error: algo.nothing=3: unknown key", "accepted: name, updates"],
    "algo={nothing: 3}": ["error: algo.nothing=3: unknown key", "accepted: name, updates"],
    "+algo.updates=3": ["algo.updates=3", "leave out the +"],
    "algo.updates=many": ["algo.updates='many': must be an int"],
    "algo.clip_eps=wide": ["algo.clip_eps='wide': must be a float"],
    "algo.clip_value=maybe": ["algo.clip_value='maybe': must be true or false"],
    "sink.project=[1]": ["sink.project=[1]: must be text"],
    "run.threads=x": ["run.threads='x': must be an int or null"],
    "sft=3": ["sft=3", "steps, batch_size"],
    "algo.kl_coef": ["algo.kl_coef: give it as key=value"],
    "sink.project=a (b": ["sink.project=a (b", "quote the value"],
    "sink.project=a,b": ["sink.project='a,b'", "quote it"],
    "algo.kl_controller=maybe": ["algo.kl_controller='maybe'", "adaptive, fixed"],
    "task=poems": ["task=poems: must be one of automaton, bandit, imdb, jsonl"],
    "task=null": ["task=None: must be one of automaton, bandit, imdb, jsonl"],
    "model=huge": ["model=huge: must be one of base, nano, small, tiny"],
    "algo.minibatches=3": ["algo.minibatches=3", "must divide algo.batch_size=128"],
    "task.max_prompt=60": ["task.max_prompt=60", "model.context=64", "at least 85"],
    "resume=no/such/run": ["resume='no/such/run'", "not a run directory"],
    "experiment=magic": ["experiment=magic: must be one of ablation, kl_placement, small, tune"],
    "hydra/launcher=cloud": ["hydra/launcher=cloud: must be one of basic, lanes"],
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
    assert [part for part in CASES[argument] if part not in line] == [], line
    assert "base_" not in line
    assert not (tmp_path / "outputs").exists()  # it leaves nothing behind


GENERATE = {
    "": ["run=None", "give the directory of a finished run"],
    "run=no/such/run": ["run='no/such/run'", "not a run directory"],
    "run=nameless": ["run='nameless'", "task.name=None", "imdb, jsonl, repetition, reviews"],
    "run=poems": ["run='poems'", "task.name=poems", "imdb, jsonl, repetition, reviews"],
    "run=classic": ["run='classic'", "is a run of experiments.ppo", "experiments.rlhf"],
    "run=sweep": ["run='sweep'", "is a sweep", "such as sweep/0"],
    "run=garbled": ["run='garbled'", "cannot be read"],
    "run=other": ["run='other'", "not of this version (seed='x': must be an int)"],
    "+nothing=3": ["nothing=3: unknown key", "accepted: run, prompt"],
    "seed=4294967296": ["seed=4294967296", "below 2**32"],
    "run=unfinished": ["run='unfinished'", "not finished", "resume=unfinished"],
    "num_samples=0": ["num_samples=0", "above 0"],
    "sampling.temperature=0": ["sampling.temperature=0.0", "above 0"],
    "device=abacus": ["device='abacus'", "auto, cpu, gpu, tpu"],
}


STORED = {
    "unfinished": "task:\n  name: reviews\n",
    "nameless": "seed: 1\n",
    "poems": "task:\n  name: poems\n",
    "garbled": "task: [name\n",
    "other": "seed: x\ntask:\n  name: reviews\n",
    "classic": "env:\n  kind: gridworld\n",
}


@pytest.mark.parametrize("argument", GENERATE)
def test_generate_says_what_it_needs_in_one_line(tmp_path, argument):
    for name, text in STORED.items():
        store(tmp_path / name, text)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "multirun.yaml").touch()
    (tmp_path / "other" / "checkpoints").mkdir()
    (tmp_path / "other" / "checkpoints" / "policy.safetensors").touch()
    line = error_line(run(tmp_path, "generate", *filter(None, [argument])))
    assert [part for part in GENERATE[argument] if part not in line] == [], line
    assert {p.name for p in tmp_path.iterdir()} == {*STORED, "sweep"}  # it leaves nothing behind


def store(folder, text):
    """A run directory with settings."""
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(text)


@pytest.mark.parametrize("typed", ["hydra.run.dir=a run", "hydra.run.dir='a run'"])
def test_a_taken_directory_is_refused_before_anything_is_written_there(tmp_path, typed):
    (tmp_path / "a run").mkdir()
    (tmp_path / "a run" / "metrics.jsonl").touch()
    line = error_line(run(tmp_path, "rlhf", typed, "resume=null"))
    wanted = "already holds a run; go on with it by resume=a run, or choose another"
    assert line == f"error: hydra.run.dir='a run': {wanted}"
    assert [p.name for p in (tmp_path / "a run").iterdir()] == ["metrics.jsonl"]


def test_a_taken_sweep_directory_is_refused(tmp_path):
    (tmp_path / "sweep" / "0").mkdir(parents=True)
    (tmp_path / "sweep" / "0" / "metrics.jsonl").touch()
    line = error_line(run(tmp_path, "rlhf", "-m", "hydra.sweep.dir=sweep", "seed=1,2"))
    wanted = "already holds runs; go on with -m resume=sweep, or choose another"
    assert line == f"error: hydra.sweep.dir='sweep': {wanted}"
    assert [p.name for p in (tmp_path / "sweep").iterdir()] == ["0"]


def test_every_failed_job_has_a_line_with_its_directory(tmp_path):
    one_by_one = ("hydra/launcher=basic", "hydra.sweep.dir=sweep")
    done = run(tmp_path, "rlhf", "seed=-1,-2", "-m", *one_by_one, "algo.updates=1")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        f"error: sweep/{job}: seed={seed}: must be 0 or above and below 2**32"
        for job, seed in enumerate((-1, -2))
    ]


def test_two_starts_in_one_second_have_their_own_directories():
    node = OmegaConf.load(ROOT / "configs" / "rlhf.yaml").hydra
    raw = OmegaConf.to_container(node, resolve=False)
    assert "%f" in raw["run"]["dir"] and "%f" in raw["sweep"]["dir"]


def test_a_refused_change_is_not_stored(tmp_path):
    store(tmp_path / "run", "seed: 3\ntask:\n  name: reviews\n")
    line = error_line(run(tmp_path, "rlhf", "resume=run", "algo.updates=-1"))
    assert line == "error: algo.updates=-1: must be above 0"
    stored = (tmp_path / "run" / ".hydra" / "config.yaml").read_text()
    assert stored == "seed: 3\ntask:\n  name: reviews\n"


def test_help_names_every_group(tmp_path):
    done = run(tmp_path, "rlhf", "--help")
    assert done.returncode == 0
    assert all(f"{group}:" in done.stdout for group in ("task", "model", "algo", "optim", "sink"))


@pytest.mark.parametrize(
    "program, typed, line",
    [
        ("rlhf", "algo=dpo", "algo.loss: dpo, ipo, hinge, robust, kto, orpo, simpo"),
        ("ppo", "env=cartpole", "network.activation: tanh, relu"),
    ],
)
def test_help_names_what_a_setting_takes(tmp_path, program, typed, line):
    done = run(tmp_path, program, typed, "--help")
    assert done.returncode == 0 and line in done.stdout.splitlines(), done.stdout


def test_settings_that_cannot_be_given_back_are_named(tmp_path):
    program = Program(lambda config, folder: None, None)
    kept, gone = tmp_path / "config.yaml", tmp_path / "gone" / "config.yaml"
    program.earlier = {gone: b"seed: 1", kept: b"seed: 2"}
    program.close()
    assert (
        kept.read_text() == "seed: 2" and "the settings there have changed" in program.failures[0]
    )


def test_a_program_that_ended_keeps_its_settings(tmp_path):
    program = Program(lambda config, folder: None, None)
    program.earlier, program.ended = {tmp_path / "config.yaml": b"seed: 1"}, True
    program.close()
    assert not (tmp_path / "config.yaml").exists() and not program.failures


def test_what_was_interrupted_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    program = Program(lambda config, folder: None, None)
    assert program.further() == ""
    program.run_dir = tmp_path / "run"
    assert program.further() == ""  # nothing to go on with yet
    program.run_dir.mkdir()
    (program.run_dir / "metrics.jsonl").touch()
    assert program.further() == "; go on with resume=run"
    program.root = tmp_path / "sweep"
    assert program.further() == f"; go on with -m resume={tmp_path / 'sweep'}"
