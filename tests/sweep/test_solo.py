"""Jobs without lanes: the runs they would be without a sweep."""

import dataclasses
import json
import time

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from rlhf_jax.config import (
    BanditConfig,
    BestOfNConfig,
    EvalConfig,
    ModelConfig,
    PreferenceConfig,
    RewardModelConfig,
    RLHFConfig,
    RunConfig,
    SamplingConfig,
    SFTConfig,
    SweepConfig,
)
from rlhf_jax.io.stage_cache import StageCache
from rlhf_jax.sweep import solo
from rlhf_jax.sweep.jobs import DIVERGED, Job, JobEnd
from rlhf_jax.train.health import Diverged
from rlhf_jax.train.run import run_recorded

BASE = RLHFConfig(
    stage_seed=0,
    seed=3,
    task=BanditConfig(num_texts=64, num_pairs=32, letters=4),
    model=ModelConfig(layers=1, width=16, heads=2, kv_heads=1, ff_width=32, context=8),
    sft=SFTConfig(steps=2, log_every=2),
    reward_model=RewardModelConfig(steps=2, log_every=2),
    sampling=SamplingConfig(max_length=1),
    eval=EvalConfig(num_prompts=4),
    run=RunConfig(cache=False, progress=False),
    sweep=SweepConfig(objective="objective/scores"),
)
ALGORITHMS = {
    "best_of_n": BestOfNConfig(n=2),
    "dpo": PreferenceConfig(updates=2, batch_size=4),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The directory of a sweep; a program that was compiled once is not compiled again."""
    settings = {
        "jax_compilation_cache_dir": str(tmp_path_factory.mktemp("compiled")),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    for name, value in settings.items():
        jax.config.update(name, value)
    yield tmp_path_factory.mktemp("sweep")
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def run(path, config, root):
    told = []
    solo.run_solo(lambda *message: told.append(message), [Job(4, path, config, ())], root)
    ((kind, end),) = told
    assert kind == "end"
    return end, json.loads((path / "summary.json").read_text())


def rows(path):
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


@pytest.mark.slow
@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_job_without_lanes_is_its_own_run(root, name):
    config = dataclasses.replace(BASE, algo=ALGORITHMS[name])
    end, summary = run(root / name, config, root)
    run_recorded(
        config, root / f"{name}_alone", time.monotonic(), StageCache(root / "stages" / "cache")
    )
    alone = json.loads((root / f"{name}_alone" / "summary.json").read_text())
    assert end == JobEnd(4, "finished", None, alone["after"]["objective/scores"])
    same = ("before", "after", "status", "error", "config_hash")
    assert [summary[k] for k in same] == [alone[k] for k in same]
    assert rows(root / name) == rows(root / f"{name}_alone")


def test_a_job_that_was_begun_goes_on(tmp_path, monkeypatch):
    asked = []

    def record(config, path, start, cache):
        asked.append((config.resume, cache.root))
        (path / "summary.json").write_text("{}")
        return {"status": "finished", "error": None, "after": {"objective/scores": 2.0}}, []

    monkeypatch.setattr(solo, "run_recorded", record)
    (tmp_path / "4").mkdir()
    assert run(tmp_path / "4", BASE, tmp_path)[0] == JobEnd(4, "finished", None, 2.0)
    (tmp_path / "4" / "metrics.jsonl").touch()
    (tmp_path / "4" / "error.json").touch()
    run(tmp_path / "4", BASE, tmp_path)
    cache = tmp_path / "stages" / "cache"
    assert asked == [(None, cache), (str(tmp_path / "4"), cache)]
    assert not (tmp_path / "4" / "error.json").exists()


def test_a_job_that_diverges_says_so_and_why(tmp_path, monkeypatch):
    def lose(*_):
        raise Diverged("dpo: nothing is finite")

    monkeypatch.setattr(solo, "run_recorded", lose)
    (tmp_path / "4").mkdir()
    end, summary = run(tmp_path / "4", BASE, tmp_path)
    assert end == JobEnd(4, DIVERGED, "dpo: nothing is finite", None)
    assert (summary["status"], summary["error"]) == (DIVERGED, end.error)
