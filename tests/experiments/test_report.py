"""The report from the command line."""

import importlib.util
from pathlib import Path

import pytest

from experiments.report import main

SPEC = importlib.util.spec_from_file_location(
    "synthetic", Path(__file__).parents[1] / "report" / "synthetic.py"
)
synthetic = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(synthetic)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    root = tmp_path_factory.mktemp("sweep")
    synthetic.write_sweep(root, {"algo.clip_eps": [0.1, 0.4]}, 3, lambda s: 9 * s["algo.clip_eps"])
    return root


def test_it_builds_everything_and_says_where(sweep, tmp_path, capsys):
    out = tmp_path / "new" / "page.html"
    assert main([str(sweep), "--metric", "gold/score", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"The report is {out}" in printed and "clip_eps 0.4 scores" in printed
    assert out.read_text().startswith("<!doctype html>")
    assert (sweep / "results.csv").exists() and (sweep / "curves.parquet").exists()
    assert not (sweep / "report").exists()


@pytest.mark.parametrize(
    "arguments, error",
    [
        (["DIR/none"], "no such directory"),
        (["DIR/0/.hydra"], "holds no jobs of a sweep"),
        (["DIR", "DIR/../{name}"], "given twice"),
        (["DIR", "--metric", "golds"], "metric golds: not a final number of these runs"),
        (["DIR", "--out", "DIR/results.csv/x.html"], "results.csv"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(sweep, capsys, arguments, error):
    (sweep / "results.csv").touch()
    typed = [a.replace("DIR", str(sweep)).format(name=sweep.name) for a in arguments]
    assert main(typed) == 2
    told = capsys.readouterr().err.strip()
    assert error in told and told.startswith("error: ") and "\n" not in told
