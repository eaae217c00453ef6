"""The report of a sweep whose effects are known, from directories to the page."""

import base64
import importlib.util
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread
from rich.console import Console

from rlhf_jax.report.sweep import print_summary, write_report
from rlhf_jax.report.sweep_answers import answers
from rlhf_jax.report.sweep_arms import arms_of
from rlhf_jax.report.sweep_cautions import cautions
from rlhf_jax.report.sweep_curves import curves_of, facet, frontier, matched
from rlhf_jax.report.sweep_page import ranked, samples
from rlhf_jax.report.sweep_question import Question
from rlhf_jax.report.sweep_study import outcome, read_study
from rlhf_jax.report.sweep_together import interactions, main_effects

SPEC = importlib.util.spec_from_file_location("synthetic", Path(__file__).parent / "synthetic.py")
synthetic = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(synthetic)

FACTORS = {"algo.clip_eps": [0.1, 0.2], "model.value_head": ["shared", "separate"]}
FATES = {3: "diverged", 9: "failed"}
GROUP = {"id": 0, "jobs": list(range(24)), "strategy": "map", "compiles": 2, "error": None}
RECORD = {"command": "python -m experiments.rlhf -m ...", "seconds": 99.0, "groups": [GROUP]}


def planted(setting):
    """A clip that helps by 0.5, and another 0.6 when the value head is separate."""
    if setting["algo.clip_eps"] == 0.1:
        return 0.0
    return 0.5 if setting["model.value_head"] == "shared" else 1.1


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("sweep")
    fate = lambda number: FATES.get(number, "finished")
    synthetic.write_sweep(path, FACTORS, 6, planted, fate=fate, groups=RECORD, exact=True)
    return path


@pytest.fixture(scope="module")
def question(root):
    study = read_study([root])
    return Question(study, outcome(study))


@pytest.fixture(scope="module")
def page(root):
    return write_report([root]).read_text()


def asked(path, metric=None):
    study = read_study([path])
    return Question(study, outcome(study, metric))


def test_what_was_varied(question):
    study = question.study
    assert [f.key for f in study.factors] == list(FACTORS)
    assert study.factors[0].values == (0.1, 0.2) and study.factors[1].values[0] == "shared"
    assert study.seeds == 6 and len(study.runs) == 24 and not study.searched
    assert study.held["algo.kl_coef"] == 0.05 and "algo.clip_eps" not in study.held
    assert question.column == "after/gold/score"


def test_the_planted_effect_is_found_with_its_sign_and_size(question):
    clip, head = answers(question)
    assert (clip.better, clip.worse, clip.found.sure) == ("0.2", "0.1", True)
    assert clip.found.estimate.low < 0.8 < clip.found.estimate.high
    number = r"(\d\.\d+|∞)"  # the run that was lost may make a resample infinitely better
    words = rf"clip_eps 0.2 scores {number} \[{number}, {number}\] points more than 0.1\."
    assert re.fullmatch(words, clip.sentence)
    assert (head.better, head.worse) == ("separate", "shared")
    assert clip.found.estimate.runs == 12 - 1  # a pair without the run that failed
    assert clip.found.estimate.not_finite == 1  # but with the one that diverged


def test_the_planted_interaction_is_found(question):
    (found,) = interactions(question)
    ((name, contrast),) = found.rows
    assert contrast.sure and contrast.estimate.low < 0.6 < contrast.estimate.high
    assert "clip_eps 0.1 to 0.2, at value_head separate against shared" in name
    effects = main_effects(question)[question.study.factors[0]]
    assert effects[0].estimate.value == pytest.approx(-effects[1].estimate.value)
    assert effects[1].estimate.value == pytest.approx(0.4, abs=0.15)


def test_no_effect_is_told_as_none(tmp_path):
    synthetic.write_sweep(tmp_path, FACTORS, 5)
    question = asked(tmp_path)
    for answer in answers(question):
        assert not answer.found.sure
        assert "cannot be told apart with 5 seeds" in answer.sentence
    assert "could not be shown" in interactions(question)[0].sentence


def test_arms_say_how_many_runs_they_lost(question):
    low, high = arms_of(question, question.study.factors[0])
    assert (low.label, low.runs, low.lost, low.missing) == ("clip_eps 0.1", 11, 1, 1)
    assert (high.runs, high.lost, high.missing) == (12, 0, 0)
    assert low.numbers["after/gold/score"].not_finite == 1
    assert low.numbers["after/objective/kl"].runs == 10  # a lost run has no KL
    best, *_, worst = arms_of(question, None)
    assert best.values == ("0.2", "separate") and worst.values[0] == "0.1"


def test_where_less_is_better_the_smaller_is_better(root):
    question = asked(root, "exact/gap_share")
    clip = answers(question)[0]
    assert clip.better == "0.2" and "less gap to the optimum than 0.1" in clip.sentence
    estimate = arms_of(question, question.study.factors[0])[1].numbers["exact/gap_share"]
    assert 0 < estimate.low < estimate.value < estimate.high < 1
    assert arms_of(question, None)[0].values == ("0.2", "separate")
    assert ranked(question)[0]["settings"]["algo.clip_eps"] == 0.2
    with pytest.raises(ValueError, match=r"they have .*gold/score"):
        asked(root, "golds")


def test_few_seeds_are_said_loudly_and_get_no_interval(tmp_path):
    synthetic.write_sweep(tmp_path, {"algo.clip_eps": [0.1, 0.4]}, 2, lambda s: s["algo.clip_eps"])
    question = asked(tmp_path)
    assert cautions(question)[0].startswith("ONLY 2 SEEDS")
    (answer,) = answers(question)
    assert np.isnan(answer.found.p) and "2 seeds cannot tell that from chance" in answer.sentence
    page = write_report([tmp_path]).read_text()
    assert "ONLY 2 SEEDS" in page and "told apart with" not in page
    start = page.index('id="arms"')
    assert not re.search(r"<small>\[", page[start : page.index('id="curves"')])


def test_combinations_with_few_seeds_are_pointed_out(tmp_path):
    fate = lambda number: "finished" if number not in (0, 1) else "unfinished"
    synthetic.write_sweep(tmp_path, FACTORS, 4, planted, fate=fate)
    question = asked(tmp_path)
    assert any(note.startswith("1 of 4 combinations") for note in cautions(question))
    (thin,) = (arm for arm in arms_of(question, None) if arm.values == ("0.1", "shared"))
    assert (thin.runs, thin.missing) == (2, 2)
    assert np.isnan(thin.numbers["after/gold/score"].low)


def test_the_frontier_and_equal_kl(tmp_path):
    """kl_coef decides how far a run goes; at the same KL the clip helps as planted."""
    factors = {"algo.kl_coef": [0.0, 0.2], "algo.clip_eps": [0.1, 0.4]}
    synthetic.write_sweep(tmp_path, factors, 4, lambda s: s["algo.clip_eps"], spread=0.02)
    study = read_study([tmp_path])
    found = frontier(study)
    assert (found.kl_metric, found.metric) == ("objective/kl", "gold/score")
    final = study.runs[["after/objective/kl", "after/gold/score"]].to_numpy(float)
    np.testing.assert_array_equal(found.ends, final)  # not the last batch of training
    assert np.nanmax(found.reached()[:8]) > 6 and np.nanmax(found.reached()[8:]) < 2
    for kl, reward in zip(found.kl, found.reward):
        assert (np.diff(kl) > 0).all() and kl[0] == 0 and reward[0] == 0
    coef, clip = study.factors
    assert facet(study, found, clip) == coef and facet(study, found, coef) is None
    by_coef, by_clip = matched(study, found)
    assert by_coef.kl[1] < 2 < by_clip.kl[1]  # each stratum as far as its own runs go
    (answer,) = by_clip.answers
    assert answer.better == "0.4" and answer.found.sure
    assert answer.found.estimate.value == pytest.approx(0.3, abs=0.06)


def test_noise_in_the_kl_does_not_shift_the_frontier(tmp_path):
    """Records set by noise would put rewards of a smaller KL down to a larger one."""
    synthetic.write_sweep(tmp_path, {}, 40)
    rng, updates = np.random.default_rng(0), np.arange(1, 16)
    for number in range(40):
        kl = 4 * updates / 15  # the truth; the reward is 2 sqrt(kl)
        columns = {"objective/kl": kl + 0.4 * rng.standard_normal(15), "gold/score": 2 * kl**0.5}
        rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
        lines = [{"stage": "ppo", "update": int(u)} | r for u, r in zip(updates, rows)]
        path = tmp_path / str(number) / "metrics.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = frontier(read_study([tmp_path])).rewards_at(np.array([1.0, 2.0, 3.0]))
    truth = 2 * np.sqrt([1.0, 2.0, 3.0])
    assert np.nanmean(found, axis=0) == pytest.approx(truth, abs=0.15)  # else 0.2 to 0.3 too low


def test_a_run_ends_where_the_tables_say(question):
    found = frontier(question.study)
    assert (found.kl_metric, found.metric) == ("exact/kl", "exact/reward")
    runs = question.study.runs
    finished = (runs.status == "finished").to_numpy()
    ends = runs.loc[finished, ["exact/kl", "exact/reward"]].to_numpy(float)
    np.testing.assert_array_equal(found.ends[finished], ends)
    assert np.isnan(found.ends[~finished]).all()


def test_rewards_are_read_off_at_a_kl():
    from rlhf_jax.report.sweep_curves import Frontier

    paths = [np.array([0.0, 1.0, 3.0]), np.array([0.0, 0.5]), np.empty(0)]
    rewards = [np.array([0.0, 2.0, 3.0]), np.array([0.0, 4.0]), np.empty(0)]
    found = Frontier("objective/kl", "gold/score", paths, rewards, np.full((3, 2), np.nan))
    expected = [[1.0, 2.5], [4.0, np.nan], [np.nan, np.nan]]
    np.testing.assert_array_equal(found.rewards_at(np.array([0.5, 2.0])), expected)
    np.testing.assert_array_equal(found.reached(), [3.0, 0.5, np.nan])


def test_curves_are_means_on_common_points(question):
    found = curves_of(question.study, "objective/kl")
    assert found.counted == "completions sampled" and found.y.shape == (24, 40)
    assert np.isnan(found.y[9]).all()  # failed
    assert np.isfinite(found.y[3, :13]).all() and np.isnan(found.y[3, 14:]).all()  # diverged
    assert found.y[0, -1] == pytest.approx(5.4, rel=0.25)
    assert curves_of(question.study, "no/such") is None


def test_texts_of_the_best_the_median_and_the_worst(question):
    told = samples(question)
    assert [run["name"] for run in told] == ["best", "median", "worst"]
    assert told[0]["score"] >= told[1]["score"] >= told[2]["score"]
    assert told[0]["texts"][0]["after"] == "was a joy from start to end."


def test_the_page_needs_nothing_else(page):
    assert not re.search(r'(src|href)="(?!data:|#)', page) and "@import" not in page
    assert "url(" not in page and "<script" not in page
    pictures = re.findall(r'<img src="data:image/png;base64,([^"]+)" width="\d+" alt="[^"]+"', page)
    assert len(pictures) >= 12 and len(pictures) == page.count("<img")
    for data in pictures:
        image = imread(io.BytesIO(base64.b64decode(data)))
        assert image.shape[0] > 150 and image[..., :3].std() > 0.01


def test_the_page_tells_all_it_should(page):
    for words in (
        "clip_eps 0.2 scores", "act together", "1 of 24 runs diverged", "1 of 24 runs failed",
        "XlaRuntimeError: out of memory", "not finite: gold/score", "P(better)", "p, Holm",
        "at the same KL", "gap to the optimum", "entropy", "length", "Compiled programs",
        "python -m experiments.rlhf -m ...", "0.10.2", "was a joy from start to end.", "1:39",
        "algo.kl_coef: 0.05", "curves.parquet",
    ):  # fmt: skip
        assert words in page, words
    assert "nan" not in re.sub(r"base64,[^\"]+", "", page).lower()


def test_what_runs_wrote_is_not_run_by_a_browser(tmp_path, monkeypatch):
    synthetic.without_pictures(monkeypatch)
    synthetic.write_sweep(tmp_path, {"algo.clip_eps": [0.1, 0.4]}, 1)
    (tmp_path / "0" / "samples.jsonl").write_text('{"prompt": "<script>x</script>", "after": "&"}')
    page = write_report([tmp_path]).read_text()
    assert "&lt;script&gt;x" in page and "<script>x" not in page


def test_two_sweeps_are_compared(tmp_path, monkeypatch):
    synthetic.without_pictures(monkeypatch)
    dirs, clips = [tmp_path / "first", tmp_path / "second"], {"algo.clip_eps": [0.1, 0.4]}
    for draw, path in enumerate(dirs):
        path.mkdir()
        effect = {0: lambda s: 0.0, 1: lambda s: 0.4}[draw]
        synthetic.write_sweep(path, clips, 4, effect, seed_spread=0.0, draw=draw)
    path = write_report(dirs)
    assert path == tmp_path / "first" / "report" / "comparison.html"
    assert re.search(r"sweep second scores 0\.\d+ \[0\.\d+, 0\.\d+\] points", path.read_text())
    assert all((d / name).exists() for d in dirs for name in ("results.csv", "curves.parquet"))


def test_settings_that_move_together_are_one_factor(tmp_path, monkeypatch):
    synthetic.without_pictures(monkeypatch)
    synthetic.write_sweep(tmp_path, {"algo.clip_eps": [0.1, 0.4]}, 3)
    for number in range(6):
        path = tmp_path / str(number) / ".hydra" / "config.yaml"
        other = "1.0" if number < 3 else "2.0"
        path.write_text(path.read_text().replace("kl_coef: 0.05", f"kl_coef: {other}"))
    study = read_study([tmp_path])
    assert [f.key for f in study.factors] == ["algo.clip_eps"]
    assert study.follow == {"algo.kl_coef": "algo.clip_eps"}
    assert "not told apart" in write_report([tmp_path]).read_text()


def test_a_search_has_no_arms(tmp_path):
    rng = np.random.default_rng(0)
    for number, rate in enumerate(np.geomspace(1e-5, 1e-3, 12)):
        typed = {"optim.learning_rate": float(rate), "seed": 0}
        fate = "diverged" if number == 11 else "finished"
        synthetic.write_job(tmp_path / str(number), number, typed, -abs(number - 4), fate, rng)
    question = asked(tmp_path)
    assert [f.name for f in question.study.searched] == ["learning_rate"]
    assert not question.study.factors and ranked(question)[0]["job"] == "4"
    page = write_report([tmp_path]).read_text()
    assert "Search over learning_rate" in page and "no arms to compare" in page


def test_settings_tried_at_random_are_a_search(tmp_path):
    """As a sampler does over choices: some twice, most never."""
    rng = np.random.default_rng(0)
    heads = ["shared", "separate", "separate", "shared", "separate"]
    for number, head in enumerate(heads):
        typed = {"algo.clip_eps": [0.1, 0.2][number % 2], "model.value_head": head, "seed": 0}
        synthetic.write_job(tmp_path / str(number), number, typed, 1.0, "finished", rng)
    assert [f.name for f in asked(tmp_path).study.searched] == ["clip_eps", "value_head"]
    assert "no arms to compare" in write_report([tmp_path]).read_text()


@pytest.mark.parametrize("fate", ["unfinished", "failed", "diverged"])
def test_a_sweep_of_which_nothing_is_left(tmp_path, fate):
    synthetic.write_sweep(tmp_path, {"algo.clip_eps": [0.1, 0.4]}, 3, fate=lambda n: fate)
    page = write_report([tmp_path]).read_text()
    assert fate in page and "No run has ended with a score" in page


def test_the_terminal_says_it_in_short(root):
    console = Console(width=150, record=True, file=io.StringIO())
    print_summary([root], console=console)
    text = console.export_text()
    assert "clip_eps 0.2" in text and "value_head separate" in text
    assert "- clip_eps 0.2 scores" in text and "1 of 24 runs diverged" in text


def test_the_terminal_says_that_nothing_was_found(tmp_path):
    synthetic.write_sweep(tmp_path, {"algo.clip_eps": [0.1, 0.4]}, 5)
    console = Console(width=150, record=True, file=io.StringIO())
    print_summary([tmp_path], console=console)
    assert "cannot be told apart with 5 seeds" in console.export_text()
