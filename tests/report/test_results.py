"""results.csv and curves.parquet, from job directories in every state."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rlhf_jax.report.results import write_results
from rlhf_jax.report.sweep_jobs import read_jobs, varied

SPEC = importlib.util.spec_from_file_location("synthetic", Path(__file__).parent / "synthetic.py")
synthetic = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(synthetic)

FACTORS = {"algo.clip_eps": [0.1, 0.4]}
FATES = {1: "diverged", 3: "failed", 4: "unfinished"}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    groups = {"groups": [{"id": 0, "jobs": [0, 1, 2]}, {"id": 1, "jobs": [3, 4, 5]}]}
    scores = synthetic.write_sweep(
        root, FACTORS, 3, fate=lambda n: FATES.get(n, "finished"), groups=groups, exact=True
    )
    (root / "stages" / "abc" / ".hydra").mkdir(parents=True)  # shared stages are no jobs
    return root, scores, write_results(root)


def test_a_row_for_every_job_whatever_became_of_it(sweep):
    table = pd.read_csv(sweep[0] / "results.csv").set_index("job")
    expected = [FATES.get(n, "finished") for n in range(6)]
    assert table.status.tolist() == expected
    assert table.group.tolist() == [0, 0, 0, 1, 1, 1]
    assert table["algo.clip_eps"].tolist() == [0.1] * 3 + [0.4] * 3
    assert table.seed.tolist() == [0, 1, 2] * 2
    assert table.error[3] == "XlaRuntimeError: out of memory" and "gold/score" in table.error[1]
    ended = table.status == "finished"
    assert table["after/gold/score"].notna().tolist() == ended.tolist()
    assert table["exact/gap_share"].notna().tolist() == ended.tolist()
    want = [sweep[1][0.1, 0], sweep[1][0.1, 2], sweep[1][0.4, 2]]
    assert table["after/gold/score"][ended].tolist() == pytest.approx(want)
    columns = list(table.columns)
    order = ["status", "algo.clip_eps", "seed", "before/gold/score", "after/gold/score"]
    order += ["exact/gap_share", "seconds", "config_hash"]
    assert [columns.index(name) for name in order] == sorted(columns.index(n) for n in order)


def test_no_number_is_not_finite(sweep):
    text = (sweep[0] / "results.csv").read_text().lower()
    assert "nan" not in text.replace("exact", "") and "inf" not in text
    assert np.isfinite(pd.read_parquet(sweep[0] / "curves.parquet").value).all()


def test_curves_hold_every_logged_number(sweep):
    curves = pd.read_parquet(sweep[0] / "curves.parquet")
    assert list(curves) == ["job", "stage", "update", "episode", "metric", "value"]
    rows = [json.loads(x) for x in (sweep[0] / "2" / "metrics.jsonl").read_text().splitlines()]
    mine = curves[(curves.job == 2) & (curves.stage == "ppo") & (curves.metric == "gold/score")]
    assert mine.value.tolist() == [r["gold/score"] for r in rows if r["stage"] == "ppo"]
    assert mine.episode.tolist() == [r["episode"] for r in rows if r["stage"] == "ppo"]
    ends = curves[curves.stage == "ppo"].groupby("job")["update"].max()
    assert ends.tolist() == [60, 20, 60, 20, 20, 60]  # those that were lost as far as they came


def test_a_diverged_number_anywhere_marks_the_run(sweep, tmp_path):
    synthetic.write_sweep(tmp_path, FACTORS, 1)
    path = tmp_path / "0" / "summary.json"
    summary = json.loads(path.read_text())
    del summary["status"]
    summary["after"]["objective/kl"] = None
    path.write_text(json.dumps(summary))
    _, table, _ = write_results(tmp_path)
    assert table.status.tolist() == ["diverged", "finished"]
    assert np.isnan(table["after/gold/score"][0])


def test_half_written_files_are_jobs_that_have_not_ended(tmp_path):
    synthetic.write_sweep(tmp_path, FACTORS, 1)
    (tmp_path / "0" / "summary.json").write_text('{"after": {')
    (tmp_path / "1" / "summary.json").unlink()
    (tmp_path / "1" / "error.json").write_text("")
    _, table, _ = write_results(tmp_path)
    assert table.status.tolist() == ["unfinished", "unfinished"]


def test_groups_chosen_by_name_are_columns(tmp_path):
    synthetic.write_sweep(tmp_path, FACTORS, 1)
    for number, name in enumerate(("ppo", "rloo")):
        home = tmp_path / str(number) / ".hydra"
        home.joinpath("overrides.yaml").write_text(f"- algo={name}\n- +seed=0\n- run.threads=1")
        choices = {"hydra": {"runtime": {"choices": {"algo": name}}, "job": {"num": number}}}
        home.joinpath("hydra.yaml").write_text(json.dumps(choices))
    jobs = read_jobs(tmp_path)
    assert varied(jobs) == ["algo", "seed", "run.threads", "algo.clip_eps"]
    assert write_results(tmp_path)[1].algo.tolist() == ["ppo", "rloo"]


def test_what_is_no_sweep_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such directory"):
        read_jobs(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds no jobs"):
        read_jobs(tmp_path)


def test_several_sweeps_in_one_directory_are_not_taken_for_one(tmp_path):
    """Their jobs have the same numbers, by which curves and final numbers are joined."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        synthetic.write_sweep(tmp_path / name, FACTORS, 1)
    told = (
        r"holds several sweeps \(first/0 and second/0 are both job 0\): name the directory of each"
    )
    with pytest.raises(ValueError, match=told):
        read_jobs(tmp_path)
    (tmp_path / "second" / "0" / ".hydra" / "hydra.yaml").unlink()  # its directory says 0, too
    with pytest.raises(ValueError, match=told):
        write_results(tmp_path)
    assert not (tmp_path / "results.csv").exists()


def test_runs_by_themselves_are_numbered_by_their_place(tmp_path):
    synthetic.write_sweep(tmp_path, FACTORS, 1)
    for number, day in enumerate(("2026-01-02", "2026-01-03")):
        (tmp_path / str(number)).rename(tmp_path / day)
        (tmp_path / day / ".hydra" / "hydra.yaml").write_text('hydra: {job: {num: "???"}}')
    assert [(j.number, j.path.name) for j in read_jobs(tmp_path)] == [
        (0, "2026-01-02"),
        (1, "2026-01-03"),
    ]


def test_a_run_is_a_sweep_of_one(tmp_path):
    synthetic.write_sweep(tmp_path, FACTORS, 1)
    assert [job.number for job in read_jobs(tmp_path / "1")] == [1]
