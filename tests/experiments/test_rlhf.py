"""The whole pipeline, very small: what a run leaves behind, and what can be done with it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SMALL = [
    "model.layers=1", "model.width=16", "model.heads=2", "model.kv_heads=1", "model.ff_width=32",
    "sft.steps=20", "reward_model.steps=20", "sft.log_every=10", "reward_model.log_every=10",
    "algo.updates=3", "algo.batch_size=8", "algo.minibatches=2", "eval.num_prompts=16",
    "task.num_texts=200", "task.num_pairs=64", "task.num_prompts=32", "sampling.max_length=8",
]  # fmt: skip
pytestmark = pytest.mark.slow


def run(folder, module, *arguments, **options):
    cache = str(folder / "cache")
    env = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "RLHF_JAX_CACHE": cache}
    command = [sys.executable, "-m", f"experiments.{module}", *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(command, cwd=folder, env=env, text=True, **streams)


def rlhf(folder, *arguments):
    return run(folder, "rlhf", *SMALL, f"run.cache_dir={folder}/stages", *arguments)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with a finished run in `run`, and what it printed."""
    folder = tmp_path_factory.mktemp("rlhf")
    done = rlhf(folder, "hydra.run.dir=run")
    assert done.returncode == 0, done.stderr
    return folder, done


def test_the_run_directory_is_as_promised(finished):
    run_dir = finished[0] / "run"
    for name in ("policy", "sft", "reward_model"):
        assert (run_dir / "checkpoints" / f"{name}.safetensors").is_file()
    assert (run_dir / ".hydra" / "config.yaml").is_file()
    pictures = list((run_dir / "plots").glob("*.png"))
    assert pictures and all(p.read_bytes()[:4] == b"\x89PNG" for p in pictures)


def test_metrics_have_a_row_for_every_logged_update(finished):
    found = rows(finished[0] / "run" / "metrics.jsonl")
    updates = {
        s: [r["update"] for r in found if r["stage"] == s] for s in ("sft", "reward_model", "ppo")
    }
    assert updates == {"sft": [10, 20], "reward_model": [10, 20], "ppo": [1, 2, 3]}
    ppo = [r for r in found if r["stage"] == "ppo"]
    assert [r["episode"] for r in ppo] == [8, 16, 24]
    names = {
        "objective/kl", "objective/scores", "objective/rlhf_reward", "objective/kl_coef",
        "policy/clipfrac_avg", "policy/entropy_avg", "loss/policy_avg", "loss/value_avg",
        "val/ratio", "gold/score", "tokens/completion_length", "lr", "seconds",
    }  # fmt: skip
    assert all(names <= row.keys() for row in ppo)
    assert abs(ppo[0]["objective/kl"]) < 1e-4 and "nonfinite" not in ppo[-1]


def test_the_summary_has_numbers_times_and_versions(finished):
    summary = json.loads((finished[0] / "run" / "summary.json").read_text())
    names = {"gold/score", "objective/scores", "objective/kl", "tokens/completion_length"}
    assert names <= summary["before"].keys() == summary["after"].keys()
    assert abs(summary["before"]["objective/kl"]) < 1e-4
    assert {"sft", "reward_model", "ppo"} <= summary["stages"].keys()
    assert all("compile_seconds" in summary["stages"][s] for s in ("sft", "reward_model", "ppo"))
    wanted = {"seed", "task", "facts", "versions", "device_kind", "config_hash", "seconds"}
    assert wanted <= summary.keys()


def test_samples_are_side_by_side_with_scores(finished):
    samples = rows(finished[0] / "run" / "samples.jsonl")
    assert len(samples) == 16
    for row in samples:
        assert all(isinstance(row[k], str) for k in ("prompt", "before", "after"))
        assert "gold/score" in row["before_scores"].keys() & row["after_scores"].keys()


def test_the_console_shows_the_comparison_and_the_folder(finished):
    out = finished[1].stdout
    assert "gold reward" in out and "score trained on" in out and "run" in out
    assert finished[1].stderr == ""


def test_resuming_a_finished_run_adds_no_rows(finished):
    folder, _ = finished
    shutil.copytree(folder / "run", folder / "again")
    done = run(folder, "rlhf", "resume=again")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no word on settings that nobody typed
    assert "has ended before" in done.stdout
    assert "has ended before" not in finished[1].stdout
    before, after = (rows(folder / name / "metrics.jsonl") for name in ("run", "again"))
    place = ("stage", "update")
    assert [[r[k] for k in place] for r in after] == [[r[k] for k in place] for r in before]
    first, second = (
        json.loads((folder / name / "summary.json").read_text()) for name in ("run", "again")
    )
    assert first["after"] == second["after"]


def test_resuming_with_another_setting_is_refused_and_leaves_no_trace(finished):
    folder, _ = finished
    shutil.copytree(folder / "run", folder / "other")
    stored = (folder / "other" / ".hydra" / "config.yaml").read_bytes()
    done = run(folder, "rlhf", "resume=other", "algo.kl_coef=0.3")
    assert done.returncode == 2
    assert "begun with other settings (algo.kl_coef: 0.15 then, 0.3 now)" in done.stderr
    assert (folder / "other" / ".hydra" / "config.yaml").read_bytes() == stored


def test_resuming_that_ends_before_it_begins_leaves_no_trace(finished):
    """Here because nobody reads the warning that is printed first."""
    folder, _ = finished
    shutil.copytree(folder / "run", folder / "unheard")
    stored = (folder / "unheard" / ".hydra" / "config.yaml").read_bytes()
    unread, stderr = os.pipe()
    os.close(unread)
    done = run(folder, "rlhf", "resume=unheard", "algo.huber_delta=2.0", stderr=stderr)
    os.close(stderr)
    assert done.returncode != 0
    assert (folder / "unheard" / ".hydra" / "config.yaml").read_bytes() == stored


def test_a_directory_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    done = rlhf(tmp_path, "hydra.run.dir=file/run")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "file/run" in done.stderr


def test_stages_from_the_cache_bring_their_curves(finished):
    folder, _ = finished
    done = rlhf(folder, "hydra.run.dir=second", "algo.updates=1")
    assert done.returncode == 0, done.stderr
    assert "sft: an earlier run trained the same" in done.stdout
    first, second = (
        [r for r in rows(folder / name / "metrics.jsonl") if r["stage"] != "ppo"]
        for name in ("run", "second")
    )
    assert first == second
    summary = json.loads((folder / "second" / "summary.json").read_text())
    assert summary["stages"]["sft"]["cached"] and "rows" not in summary["stages"]["sft"]


def test_a_directory_with_another_run_is_refused(finished):
    settings = finished[0] / "run" / ".hydra" / "config.yaml"
    before = settings.read_text()
    done = rlhf(finished[0], "hydra.run.dir=run", "algo.updates=9")
    assert done.returncode == 2 and settings.read_text() == before
    assert "already holds a run; go on with it by resume=" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_multirun_gives_each_lane_the_result_of_its_own_run(finished):
    folder = finished[0]
    done = rlhf(folder, "-m", "seed=0,1", "stage_seed=0", "hydra.sweep.dir=sweep")
    assert done.returncode == 0 and done.stderr == "", done.stderr
    first, second, alone = (
        json.loads((folder / name / "summary.json").read_text())["after"]
        for name in ("sweep/0", "sweep/1", "run")
    )
    assert first == pytest.approx(alone, rel=1e-5, abs=1e-5)
    assert second.keys() == alone.keys() and second["gold/score"] != alone["gold/score"]
    table = (folder / "sweep" / "results.csv").read_text().splitlines()
    assert len(table) == 3 and table[0].startswith("job,status,")
    assert (folder / "sweep" / "report" / "index.html").is_file()
    assert "sweep/report/index.html" in done.stdout
    again = rlhf(folder, "-m", "resume=sweep")
    assert again.returncode == 2 and "keeps its settings" in again.stderr
    (folder / "sweep" / "1" / "summary.json").unlink()
    again = run(folder, "rlhf", "-m", "resume=sweep")
    assert again.returncode == 0 and "1 of 2 jobs were finished before" in again.stdout
    found = json.loads((folder / "sweep" / "1" / "summary.json").read_text())["after"]
    assert found == pytest.approx(second, rel=1e-6)


def test_generate_answers_a_file_of_prompts(finished):
    folder, _ = finished
    (folder / "prompts.jsonl").write_text('{"prompt": "the plot was"}\n{"prompt": "it was"}\n')
    done = run(
        folder, "generate", "run=run", "prompts=prompts.jsonl", "num_samples=2", "output=out.jsonl",
        "sampling.max_length=5", "seed=3",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tuned (PPO)" in done.stdout and "reference (SFT)" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    found = rows(folder / "out.jsonl")
    assert [r["prompt"] for r in found] == ["the plot was"] * 2 + ["it was"] * 2
    assert [r["sample"] for r in found] == [0, 1, 0, 1]
    for row in found:
        known = {"text", "finished", "gold/score", "objective/scores", "log_ratio"}
        assert row["tuned"].keys() == row["reference"].keys() == known
        assert len(row["tuned"]["text"].split()) <= 5
    assert found[0]["tuned"]["text"] != found[1]["tuned"]["text"] or found[2] != found[3]


def test_generate_talks_until_it_is_told_to_quit(finished):
    typed = "the plot was\nthe zorp was\n" + "it was " * 40 + "\nit was\nquit\nit was\n"
    done = run(finished[0], "generate", "run=run", input=typed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("tuned (PPO)") == 2
    assert "'zorp' is not among the task's" in done.stdout
    assert "81 tokens with BOS, at most 56 are accepted" in done.stdout


def test_a_broken_reward_of_the_users_own_is_one_line(finished):
    folder, _ = finished
    (folder / "mine.py").write_text("def score(texts):\n    return [1.0 / 0 for _ in texts]\n")
    done = rlhf(folder, "hydra.run.dir=broken", "task.reward=mine:score")
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert "ZeroDivisionError" in lines[0]


OTHERS = {
    # kind: settings beside those of SMALL, updates logged
    "kto": (["algo.updates=3"], [1, 2, 3]),
    "rejection": (["algo.updates=3", "algo.n=2", "algo.num_prompts=99"], [1, 2, 3]),
    "best_of_n": (["algo.n=3"], [1, 2, 3]),
    "remax": (["algo.updates=3"], [1, 2, 3]),
}


@pytest.mark.parametrize("algo", OTHERS)
def test_algorithms_of_every_kind_run_on_a_reward_of_the_users_own(finished, algo):
    folder = finished[0]
    (folder / "brief.py").write_text("def reward(texts):\n    return [-len(t) for t in texts]\n")
    further, updates = OTHERS[algo]
    small = [s for s in SMALL if not s.startswith(("algo.minibatches", "algo.updates"))]
    done = run(
        folder, "rlhf", *small, f"algo={algo}", *further, "task.reward=brief:reward",
        f"hydra.run.dir={algo}", f"run.cache_dir={folder}/stages",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [r for r in rows(folder / algo / "metrics.jsonl") if r["stage"] == algo]
    assert [r["update"] for r in found] == updates
    after = json.loads((folder / algo / "summary.json").read_text())["after"]
    assert after["objective/scores"] < 0 and "reward_model/score" in after
    if algo == "best_of_n":
        scores = [r["objective/scores"] for r in found]
        assert scores == sorted(scores) and found[0]["objective/kl_bound"] == 0.0
        resumed = run(folder, "rlhf", f"resume={algo}")
        assert resumed.returncode == 0, resumed.stderr
        again = [r for r in rows(folder / algo / "metrics.jsonl") if r["stage"] == algo]
        assert [r["update"] for r in again] == updates
