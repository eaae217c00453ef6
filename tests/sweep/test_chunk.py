"""Lanes against the runs they stand for: the same numbers, and nothing passes between lanes."""

import dataclasses
import json
import math
import time
from types import SimpleNamespace

import jax
import pytest

from rlhf_jax.config import (
    BanditConfig,
    EvalConfig,
    ModelConfig,
    OptimConfig,
    PolicyGradientConfig,
    RewardModelConfig,
    RLHFConfig,
    RunConfig,
    SamplingConfig,
    SFTConfig,
    SweepConfig,
)
from rlhf_jax.io.stage_cache import StageCache
from rlhf_jax.sweep import chunk, memory, stages
from rlhf_jax.sweep.jobs import Job
from rlhf_jax.sweep.layout import Layout
from rlhf_jax.sweep.objective import objectives
from rlhf_jax.train.run import run_recorded

pytestmark = pytest.mark.slow
change = dataclasses.replace
BASE = RLHFConfig(
    stage_seed=0,
    task=BanditConfig(num_texts=256, num_pairs=128, letters=4),
    model=ModelConfig(layers=1, width=16, heads=2, kv_heads=1, ff_width=32, context=8),
    sft=SFTConfig(steps=4, log_every=2),
    reward_model=RewardModelConfig(steps=4, log_every=2),
    sampling=SamplingConfig(max_length=1),
    algo=PolicyGradientConfig(updates=5, batch_size=16, epochs=2, minibatches=2),
    optim=OptimConfig(learning_rate=3e-3),
    eval=EvalConfig(num_prompts=16),
    run=RunConfig(cache_dir="/dev/null/cache", progress=False, max_skipped=2),
    sweep=SweepConfig(objective="objective/scores"),
)


def lane(seed, **algo):
    return change(BASE, seed=seed, algo=change(BASE.algo, **algo))


CONFIGS = [lane(0), lane(1, clip_eps=0.05, kl_coef=0.3), lane(2, gae_lambda=0.5)]
LOST = change(CONFIGS[1], optim=OptimConfig(learning_rate=1e30))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The directory of a sweep whose stages are trained."""
    root, told = tmp_path_factory.mktemp("sweep"), []
    tell = lambda *message: told.append(message)
    stages.train_stages(tell, Job(0, root, BASE, ()), root / "stages" / "0")
    line = f"the cache of stages cannot be written; this sweep keeps them in {root}/stages/cache"
    assert told == [("note", line)]
    return root


def run(root, name, configs, layout):
    """Ends by number, the other messages, and the directories of the lanes."""
    jobs = [Job(i, root / name / str(i), config, ()) for i, config in enumerate(configs)]
    said = []
    chunk.run_chunk(lambda *message: said.append(message), jobs, layout, root, 1)
    ends = [content for kind, content in said if kind == "end"]
    return ends, said, [job.path for job in jobs]


@pytest.fixture(scope="module", params=["map", "vmap"])
def strategy(request):
    return request.param


@pytest.fixture(scope="module")
def layout(strategy):
    """Of all tests of a strategy, so that it is compiled once.

    Mapped lanes share what is frozen; vmapped ones that do so are in test_lanes_algorithms.
    """
    return (strategy, 4, strategy == "map")


@pytest.fixture(scope="module")
def ran(root, strategy, layout):
    """Three lanes in a program of four."""
    chunk.PROGRAMS.clear()
    return run(root, strategy, CONFIGS, layout)


@pytest.fixture(scope="module")
def alone(root):
    """The second lane as a run of its own."""
    cache = StageCache(root / "stages" / "cache")
    run_recorded(CONFIGS[1], root / "alone", time.monotonic(), cache)
    return root / "alone"


def rows(path):
    found = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


def summary(path):
    return json.loads((path / "summary.json").read_text())


def close(a, b):
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, str):
            assert value == b[key]
        else:
            assert value == pytest.approx(b[key], rel=1e-5, abs=1e-5), key


def test_a_lane_leaves_what_its_own_run_would(ran, alone):
    lane_dir = ran[2][1]
    assert len(rows(lane_dir)) == len(rows(alone)) == 2 + 2 + 5
    for row, expected in zip(rows(lane_dir), rows(alone)):
        close(row, expected)
    assert {"exact/gap", "objective/scores", "val/skipped"} <= rows(lane_dir)[-1].keys()
    for side in ("before", "after"):
        close(summary(lane_dir)[side], summary(alone)[side])
    same = ("status", "config_hash", "seed", "facts", "kl_target")
    assert [summary(lane_dir)[k] for k in same] == [summary(alone)[k] for k in same]
    assert summary(lane_dir).keys() == summary(alone).keys()
    names = {p.relative_to(alone) for p in alone.rglob("*.*") if "state" not in p.parts}
    assert {p.relative_to(lane_dir) for p in lane_dir.rglob("*.*")} == names


def test_lanes_differ_and_each_has_its_end(ran):
    ends, said, paths = ran
    assert [(end.number, end.status) for end in ends] == [(i, "finished") for i in range(3)]
    assert [end.objective for end in ends] == [
        pytest.approx(summary(p)["after"]["objective/scores"]) for p in paths
    ]
    assert len({rows(path)[-1]["objective/kl"] for path in paths}) == 3
    assert sum(count * len(new) for count, new in updates(said)) == 15


def updates(said):
    return [content for kind, content in said if kind == "updates"]


def test_a_group_compiles_once_though_its_last_chunk_is_short(ran, root, strategy, layout):
    assert [kind for kind, _ in ran[1]].count("compiled") == 1
    ends, said, paths = run(root, f"{strategy}_more", CONFIGS[:1], layout)
    assert "compiled" not in [kind for kind, _ in said] and len(ends) == 1
    assert rows(paths[0]) == rows(ran[2][0])  # beside padding as beside other lanes


def test_a_lane_that_diverges_is_marked_and_changes_no_bit_of_others(ran, root, strategy, layout):
    ends, said, paths = run(root, f"{strategy}_lost", [CONFIGS[0], LOST, CONFIGS[2]], layout)
    assert "compiled" not in [kind for kind, _ in said]
    assert [end.status for end in ends] == ["finished", "diverged", "finished"]
    assert "not finite" in ends[1].error and ends[1].objective is None
    assert set(summary(paths[1])["after"].values()) == {None}
    assert summary(paths[1])["status"] == "diverged"
    assert [summary(path)["error"] for path in paths] == [None, ends[1].error, None]
    assert [math.isnan(new[1]) for _, new in updates(said)] == [True] * 5  # lost, not 0
    assert not any(math.isnan(new[0] + new[2]) for _, new in updates(said))
    assert 4 < len(rows(paths[1])) < 9  # up to where its own run would have stopped
    for i in (0, 2):
        assert rows(paths[i]) == rows(ran[2][i])
        assert summary(paths[i])["after"] == summary(ran[2][i])["after"]


def test_what_is_frozen_exists_once(ran, root):
    jobs = [Job(i, root / "frozen" / str(i), config, ()) for i, config in enumerate(CONFIGS)]
    lanes = chunk.opened(print, jobs, root)
    assert lanes[0].frozen is lanes[1].frozen is lanes[2].frozen
    shapes = lambda tree: [leaf.shape for leaf in jax.tree.leaves(tree)]
    one = shapes(lanes[0].frozen)
    for shared, lead in ((True, ()), (False, (3,))):
        layout = Layout(strategy="vmap", lanes=3, shared=shared, rows=1)
        assert shapes(chunk.inputs(lanes, layout)[1].frozen) == [(*lead, *s) for s in one]


def test_an_interrupted_lane_starts_again_in_its_directory(ran, root, strategy, layout):
    path = root / f"{strategy}_again" / "0"
    path.mkdir(parents=True)
    (path / "metrics.jsonl").write_text('{"stage": "ppo", "update": 1}\n')
    (path / "error.json").write_text("{}")
    _, _, (path,) = run(root, f"{strategy}_again", CONFIGS[:1], layout)
    assert rows(path) == rows(ran[2][0]) and not (path / "error.json").exists()


def test_a_lane_that_cannot_be_opened_fails_alone(ran, root, strategy, layout):
    (root / f"{strategy}_shut").mkdir()
    (root / f"{strategy}_shut" / "1").touch()
    ends, _, paths = run(root, f"{strategy}_shut", CONFIGS, layout)
    assert [(end.number, end.status) for end in ends] == [
        (1, "failed"), (0, "finished"), (2, "finished")
    ]  # fmt: skip
    assert "Not a directory" in ends[0].error
    assert rows(paths[2]) == rows(ran[2][2])


def test_lanes_may_start_from_models_of_their_own(ran, root, alone, strategy, layout):
    if layout[2]:
        pytest.skip("these lanes share their models")
    raw = change(BASE.reward_model, normalize="none")  # fitted once for both
    other = change(CONFIGS[0], reward_model=raw)
    ends, said, paths = run(root, "own", [other, CONFIGS[1]], layout)
    assert [end.status for end in ends] == ["finished"] * 2
    assert "compiled" not in [kind for kind, _ in said]
    for row, expected in zip(rows(paths[1]), rows(alone), strict=True):
        close(row, expected)
    scores = [summary(path)["before"]["reward_model/score"] for path in paths]
    assert scores[0] != pytest.approx(scores[1], abs=1e-3)


def test_every_compilation_is_counted(root, monkeypatch):
    (one,) = chunk.opened(print, [Job(0, root / "counted", CONFIGS[0], ())], root)
    made = lambda pipeline, layout, *_: SimpleNamespace(
        layout=layout, seconds=1.0, bytes=100 * layout.lanes
    )
    monkeypatch.setattr(chunk, "compile_program", made)
    monkeypatch.setattr(memory, "free_bytes", lambda: 300)
    monkeypatch.setattr(chunk, "PROGRAMS", {})
    told, layout = [], chunk.layout_for(CONFIGS[0], ("vmap", 4, True))
    inputs = lambda layout: chunk.inputs(chunk.padded([one], layout), layout)
    chunk.program_of(lambda *message: told.append(message), one.pipeline, inputs, layout, 1)
    assert told == [("compiled", {"seconds": 1.0, "lanes": lanes}) for lanes in (4, 2)]


def test_the_objectives_are_those_of_the_summary(alone):
    assert objectives(CONFIGS[1]) == summary(alone)["after"].keys()
