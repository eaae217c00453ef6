"""What a sweep asked, read from its directories: factors, seeds, searches, its own objective."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.report.sweep import render, write_report
from rlhf_jax.report.sweep_answers import answers
from rlhf_jax.report.sweep_arms import arms_of
from rlhf_jax.report.sweep_cautions import cautions, scope
from rlhf_jax.report.sweep_curves import curves_of, frontier
from rlhf_jax.report.sweep_lines import draw_curves, draw_frontier
from rlhf_jax.report.sweep_page import differing, ranked
from rlhf_jax.report.sweep_plots import draw_effects, draw_sensitivity
from rlhf_jax.report.sweep_question import Question
from rlhf_jax.report.sweep_study import outcome, read_study
from rlhf_jax.report.sweep_together import interactions, main_effects

SPEC = importlib.util.spec_from_file_location("synthetic", Path(__file__).parent / "synthetic.py")
synthetic = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(synthetic)

CLIPS = {"algo.clip_eps": [0.1, 0.4]}


@pytest.fixture(autouse=True)
def quick(monkeypatch, request):
    """Words only, but where the pictures are asked about."""
    if "drawn" not in request.fixturenames:
        synthetic.without_pictures(monkeypatch)


@pytest.fixture
def drawn():
    """Asks for pictures."""


def asked(*paths, metric=None):
    study = read_study(list(paths))
    return Question(study, outcome(study, metric))


# --- its objective


def test_the_sweep_is_ranked_by_its_own_objective(tmp_path):
    """KL falls with kl_coef and the score rises with it: the two rank runs the other way round."""
    factors, held = {"algo.kl_coef": [0.0, 0.2]}, {"sweep.objective": "objective/kl"}
    synthetic.write_sweep(tmp_path, factors, 3, lambda s: 9 * s["algo.kl_coef"], held=held)
    question = asked(tmp_path)
    assert question.column == "after/objective/kl"
    assert ranked(question)[0]["settings"]["algo.kl_coef"] == 0.0
    assert arms_of(question, None)[0].values == ("0",)
    page = render(question)
    assert "<b>KL from the start</b>" in page
    assert "it is the sweep&#39;s objective, sweep.objective=objective/kl" in page
    other = asked(tmp_path, metric="gold/score")
    assert ranked(other)[0]["settings"]["algo.kl_coef"] == 0.2
    assert "it was asked for; the sweep's own objective is objective/kl" in other.reason


def test_an_objective_that_was_not_measured_is_said(tmp_path):
    typed = {"sweep.objective": ["judge/score"], **CLIPS}
    synthetic.write_sweep(tmp_path, typed, 3)
    question = asked(tmp_path)
    assert question.column == "after/gold/score" and not question.own
    assert any(
        n.startswith("The sweep's objective, judge/score, was not") for n in cautions(question)
    )
    assert "judge/score, is no final number" in question.reason


def test_a_search_that_minimised_ranks_the_least_first(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(4):
        typed = {"algo.clip_eps": 0.1 * number + 0.1, "seed": 0}
        sweeper = synthetic.OPTUNA | {"direction": "minimize"}
        home = tmp_path / str(number)
        synthetic.write_job(home, number, typed, number, "finished", rng, sweeper=sweeper)
    question = asked(tmp_path)
    assert question.sign == -1 and ranked(question)[0]["job"] == "0"
    assert asked(tmp_path, metric="objective/scores").sign == 1  # the search did not look at it


def test_sweeps_with_different_objectives_are_judged_by_one(tmp_path):
    for name, objective in {"a": "gold/score", "b": "objective/kl"}.items():
        (tmp_path / name).mkdir()
        synthetic.write_sweep(tmp_path / name, CLIPS, 3, held={"sweep.objective": objective})
    question = asked(tmp_path / "a", tmp_path / "b")
    assert question.column == "after/gold/score"
    assert any("different objectives (gold/score, objective/kl)" in n for n in cautions(question))


# --- its seeds


def test_seeds_are_those_that_have_ended(tmp_path):
    """Eight seeds planned; of each arm two have ended, the rest failed or is not reached."""
    fate = lambda n: "finished" if n % 8 in (1, 5) else ("failed" if n % 8 == 2 else "unfinished")
    synthetic.write_sweep(tmp_path, CLIPS, 8, lambda s: s["algo.clip_eps"], fate=fate)
    question = asked(tmp_path)
    assert (question.study.seeds, question.study.planned) == (2, 8)
    assert cautions(question)[0].startswith(
        "ONLY 2 SEEDS OF 8 HAVE ENDED: nothing here can be told"
    )
    assert "2 seeds of 8, " in render(question) or "2 seeds of 8" in render(question)


def test_nothing_ended_is_no_seed(tmp_path):
    synthetic.write_sweep(tmp_path, CLIPS, 3, fate=lambda n: "unfinished")
    question = asked(tmp_path)
    assert question.study.seeds == 0
    assert cautions(question)[0].startswith("NO RUN HAS ENDED")


def test_runs_that_failed_or_go_on_are_in_no_curve(tmp_path):
    """They logged a third of their updates; a caution says that they are left out."""
    fate = lambda n: {1: "failed", 2: "unfinished", 4: "diverged"}.get(n, "finished")
    synthetic.write_sweep(tmp_path, CLIPS, 4, fate=fate)
    study = read_study([tmp_path])
    logged = ~np.isnan(curves_of(study, "gold/score").y).all(axis=1)
    assert logged.tolist() == [True, False, False, True, True, True, True, True]
    assert [len(kl) > 0 for kl in frontier(study).kl] == logged.tolist()
    assert len(study.curves["run"].unique()) == 8  # all are in curves.parquet


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """Two sweeps: another clip each, and other seeds each; the clip helps by 6 or by 3."""
    root, dirs = tmp_path_factory.mktemp("apart"), []
    for clip, seeds in ((0.1, range(4)), (0.4, range(4, 8))):
        dirs.append(root / f"clip{clip}")
        dirs[-1].mkdir()
        factors = {"algo.clip_eps": [clip], "model.value_head": ["shared", "separate"]}
        effect = lambda s: (
            3.0 * (s["algo.clip_eps"] > 0.2) * (1 + (s["model.value_head"] == "shared"))
        )
        synthetic.write_sweep(dirs[-1], factors, seeds, effect, draw=seeds[0])
    return dirs


def test_arms_of_different_seeds_are_arms(apart):
    question = asked(*apart)
    assert [f.name for f in question.study.factors] == ["clip_eps", "value_head"]
    assert question.study.seeds == question.study.planned == 4 and len(question.study.units) == 8
    clip, head = answers(question)
    assert clip.better == "0.4" and clip.found.sure and not clip.found.paired
    assert clip.found.estimate.value == pytest.approx(4.5, abs=0.5)
    assert "(compared unpaired: they were run on different seeds)" in clip.sentence
    assert head.found.paired and head.found.seeds == 8


def test_how_arms_of_different_seeds_act_with_another_factor(apart):
    question = asked(*apart)
    (found,) = interactions(question)
    ((name, contrast),) = found.rows
    assert contrast.sure and not contrast.paired
    assert contrast.estimate.value == pytest.approx(-3.0, abs=0.4), name
    assert [f.name for f in main_effects(question)] == ["value_head"]
    page = render(question)
    assert "No effects of clip_eps are drawn" in page and "<td>none</td>" in page


def test_the_same_settings_on_other_seeds_are_two_sweeps(tmp_path):
    for draw, name in enumerate(("first", "second")):
        (tmp_path / name).mkdir()
        seeds = range(3 * draw, 3 * draw + 3)
        synthetic.write_sweep(tmp_path / name, {}, seeds, lambda s, d=draw: 5.0 * d, draw=draw)
    (found,) = answers(asked(tmp_path / "first", tmp_path / "second"))
    assert found.factor == "sweep" and found.better == "second" and not found.found.paired


def test_what_has_a_value_for_each_seed_follows_it(tmp_path):
    synthetic.write_sweep(tmp_path, CLIPS, 3)
    for number in range(6):
        path = tmp_path / str(number) / ".hydra" / "config.yaml"
        path.write_text(
            path.read_text().replace("threads: 1", "threads: 1") + f"salt: {number % 3}\n"
        )
    study = read_study([tmp_path])
    assert [f.key for f in study.factors] == ["algo.clip_eps"] and study.follow == {"salt": "seed"}


def test_one_supervised_and_reward_model_for_all_is_said(tmp_path):
    for name, stage in {"own": None, "one": 0}.items():
        (tmp_path / name).mkdir()
        synthetic.write_sweep(tmp_path / name, CLIPS, 3, held={"stage_seed": stage})
    assert scope(read_study([tmp_path / "own"])) == ""
    question = asked(tmp_path / "one")
    assert "one supervised model and learn from one reward model" in scope(question.study)
    assert "one stage seed" in render(question)


def test_repetitions_that_share_models_are_not_independent(tmp_path):
    synthetic.write_sweep(tmp_path, {"stage_seed": [0, 1], **CLIPS}, 3)
    question = asked(tmp_path)
    assert len(question.study.units) == 6
    assert any("6 repetitions share 2 supervised and" in note for note in cautions(question))


# --- what was searched over, varied, held


def suggested(root, trials=6):
    """As Optuna leaves it: fewer values than make a search by themselves."""
    rng = np.random.default_rng(0)
    for number in range(trials):
        typed = {"algo.clip_eps": 0.1 + 0.03 * number, "model.value_head": "shared", "seed": 0}
        typed["model.value_head"] = ["shared", "separate"][number % 2]
        home = root / str(number)
        synthetic.write_job(home, number, typed, 1.0, "finished", rng, sweeper=synthetic.OPTUNA)


def test_a_short_search_is_a_search(tmp_path):
    suggested(tmp_path)
    question = asked(tmp_path)
    assert [f.key for f in question.study.searched] == ["algo.clip_eps", "model.value_head"]
    assert not question.study.factors
    assert not any("SEED" in note for note in cautions(question))
    page = render(question)
    assert "no arms to compare" in page and "<td>shared, separate</td>" in page
    assert "one stage seed" not in page  # a trial is no repetition


def test_a_grid_of_many_values_over_seeds_has_arms(tmp_path):
    rates = np.geomspace(1e-5, 1e-3, 12).tolist()
    synthetic.write_sweep(tmp_path, {"optim.learning_rate": rates}, 3)
    question = asked(tmp_path)
    (factor,) = question.study.factors
    assert len(factor.values) == 12 and not question.study.searched
    assert "None of 66 comparisons tells two values apart" in render(question)


def test_what_was_typed_for_all_runs_is_told(tmp_path):
    synthetic.write_sweep(tmp_path, {"optim.learning_rate": [0.01], **CLIPS}, 3)
    question = asked(tmp_path)
    assert dict(question.study.typed) == {"optim.learning_rate": 0.01}
    assert question.study.held["optim.learning_rate"] == 0.01
    assert "algo.clip_eps" not in question.study.held and "seed" not in question.study.held
    page = render(question)
    assert "Typed for all runs alike: <code>optim.learning_rate=0.01</code>" in page
    assert "optim.learning_rate: 0.01" in page


def test_settings_are_held_though_their_group_was_chosen(tmp_path):
    """algo=ppo,rloo varies algo.name; what both have alike is held."""
    synthetic.write_sweep(tmp_path, CLIPS, 1)
    for number, name in enumerate(("ppo", "rloo")):
        home = tmp_path / str(number) / ".hydra"
        home.joinpath("overrides.yaml").write_text(f"- algo={name}")
        choices = {"hydra": {"runtime": {"choices": {"algo": name}}, "job": {"num": number}}}
        home.joinpath("hydra.yaml").write_text(json.dumps(choices))
    assert read_study([tmp_path]).held["algo.kl_coef"] == 0.05


def test_a_setting_that_only_one_run_has_differs(tmp_path):
    synthetic.write_sweep(tmp_path, CLIPS, 1)
    path = tmp_path / "0" / ".hydra" / "config.yaml"
    path.write_text(path.read_text() + "extra: null\n")
    first, job = read_study([tmp_path]).jobs
    assert differing(first, job) == [("algo.clip_eps", "0.4"), ("extra", "-")]
    assert ("extra", "None") in differing(job, first)


def test_seeds_alone_have_curves_and_a_frontier(tmp_path, drawn):
    synthetic.write_sweep(tmp_path, {}, 3)
    page = write_report([tmp_path]).read_text()
    assert "One setting, repeated" in page and 'id="curves"' in page and 'id="frontier"' in page
    assert 'alt="gold reward"' in page and 'alt="All runs"' in page
    assert "Compared at the same KL" not in page and 'id="differences"' not in page


# --- no plot without intervals


def test_a_picture_says_where_it_lacks_intervals(tmp_path):
    """Of clip_eps 0.1 two seeds have ended, of 0.4 four: the page as a whole has enough."""
    fate = lambda number: "finished" if number not in (0, 1) else "unfinished"
    synthetic.write_sweep(tmp_path, CLIPS, 4, fate=fate)
    question = asked(tmp_path)
    (clip,) = question.study.factors
    for figure in (
        draw_sensitivity(question, clip),
        draw_effects(question, main_effects(question)),
    ):
        assert "no bar: few seeds" in figure.axes[0].get_title(loc="left")
    curves = curves_of(question.study, "gold/score")
    assert curves is not None
    thin, enough = draw_curves(question.study, clip, "gold/score", curves).axes[0].lines
    assert (thin.get_linestyle(), enough.get_linestyle()) == ("--", "-")


def test_lines_end_with_their_bands(tmp_path):
    """The KL that only few of the runs reach has a mean of theirs, but no interval."""
    synthetic.write_sweep(tmp_path, {}, 5)
    study = read_study([tmp_path])
    found = frontier(study)
    assert found is not None
    axes = draw_frontier(study, None, found, {}).axes[0]
    (line,), (band,) = axes.lines, axes.collections[:1]
    kl = np.asarray(line.get_xdata(), float)[~np.isnan(np.asarray(line.get_ydata(), float))]
    assert kl.max() == band.get_paths()[0].vertices[:, 0].max() < np.nanmax(found.reached())


def test_what_was_measured_before_training_is_kept_of_runs_that_diverged(tmp_path):
    synthetic.write_sweep(tmp_path, CLIPS, 1, fate=lambda n: "diverged")
    study = read_study([tmp_path])
    assert study.scores("before/gold/score").tolist() == [0.0, 0.0]
    assert np.isnan(study.scores("after/gold/score")).all()
    found = frontier(study)
    assert found is not None and [kl[0] for kl in found.kl] == [0.0, 0.0]


def test_the_same_run_twice_is_two_runs(tmp_path):
    """As in a folder of runs that were started one by one, all with the default seed."""
    synthetic.write_sweep(tmp_path, {"seed": [0]}, [0])
    synthetic.write_job(tmp_path / "1", 1, {"seed": 0}, 5.0, "finished", np.random.default_rng(0))
    (arm,) = arms_of(asked(tmp_path), None)
    assert arm.runs == 2 and arm.numbers["after/gold/score"].runs == 2


def test_a_sweep_is_not_compared_with_itself(tmp_path):
    synthetic.write_sweep(tmp_path, CLIPS, 1)
    with pytest.raises(ValueError, match="given twice"):
        read_study([tmp_path, tmp_path / ".." / tmp_path.name])
