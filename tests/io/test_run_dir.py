"""The run directory's names and its safe writing."""

import json
import subprocess

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import UserError
from rlhf_jax.io import run_dir
from rlhf_jax.io.run_dir import RunDir


def test_create_makes_the_contract_and_is_idempotent(tmp_path):
    run = RunDir(tmp_path / "a" / "b").create().create()
    assert sorted(p.name for p in run.path.iterdir()) == ["checkpoints", "plots"]
    assert run.metrics.name == "metrics.jsonl" and run.summary.name == "summary.json"
    assert run == RunDir(str(run.path)) and run.samples.name == "samples.jsonl"


def test_create_names_a_file_in_the_way(tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="taken: a file of that name is in the way"):
        RunDir(tmp_path / "taken").create()


def test_non_finite_numbers_become_null_and_are_counted(tmp_path):
    data = {"a": [np.float32("nan"), 1], "b": {"c": jnp.array([jnp.inf, 2.0])}, "d": tmp_path}
    run_dir.write_json(tmp_path / "x.json", data)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == {
        "a": [None, 1],
        "b": {"c": [None, 2.0]},
        "d": str(tmp_path),
        "nonfinite": 2,
    }
    assert "NaN" not in text and "Infinity" not in text


def test_write_json_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "x.json"
    run_dir.write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        run_dir.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_config_hash_sees_values_not_order():
    base = run_dir.config_hash({"a": 1.0, "b": [1, None, True]})
    assert base == run_dir.config_hash({"b": [1, None, True], "a": 1.0})
    assert base != run_dir.config_hash({"a": 1.5, "b": [1, None, True]})
    with pytest.raises(TypeError):
        run_dir.config_hash({"a": object()})


def test_run_facts_are_plain_and_complete():
    facts = run_dir.run_facts()
    assert json.loads(json.dumps(facts)) == facts
    assert {"rlhf_jax", "jax", "flax", "optax", "python"} <= facts["versions"].keys()
    assert facts["cores"] >= 1 and facts["platform"] and facts["device_kind"]
    assert facts["processor"] and facts["recorded"].endswith("+00:00")


def test_git_commit(tmp_path):
    assert run_dir.git_commit(tmp_path / "nowhere") is None

    def git(*words):
        subprocess.run(["git", "-C", tmp_path, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "module.py").write_text("")
    (tmp_path / "venv").mkdir()
    git("add", "module.py")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-m", "x")
    commit = run_dir.git_commit(tmp_path)
    assert commit is not None and len(commit) == 40
    (tmp_path / "module.py").write_text("x = 1")
    assert run_dir.git_commit(tmp_path) == f"{commit}-dirty"
    assert run_dir.git_commit(tmp_path / "venv") is None, "not held by the repository around it"


def test_git_commit_is_of_the_package_wherever_the_run_is(tmp_path, monkeypatch):
    here = run_dir.git_commit()
    monkeypatch.chdir(tmp_path)
    assert run_dir.git_commit() == here
