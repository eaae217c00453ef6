"""The report card from the command line: a small one from start to end, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from experiments._schemas import register_schemas
from experiments.exact import check_card, settings
from rlhf_jax.config import CardConfig, ConfigError, PolicyGradientConfig, RLHFConfig

ROOT = Path(__file__).resolve().parents[2]


def run(folder, *arguments):
    command = [sys.executable, "-m", "experiments.exact", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT), "RLHF_JAX_CACHE": str(folder / "cache")}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=500)


@pytest.mark.slow
def test_a_card_leaves_all_it_promises_and_goes_on(tmp_path):
    few = ["tasks=[bandit]", "instances=1", "seeds=2", "largest.bandit=11", "workers=1"]
    few += ["hydra.run.dir=card", "gates.gap_share=0.9", "gates.controls=[]"]
    done = run(tmp_path, *few, "algos=[rloo]")
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "card"
    card = json.loads((folder / "card.json").read_text())
    algos = {row["algo"] for row in card["rows"]}
    assert {"rloo", "optimal", "reference", "best_of_4", "exact_gradient"} <= algos
    assert {tuple(row["budgets"]) for row in card["rows"]} == {(1024, 2048)}
    assert card["errors"] == {}
    assert card["envelopes"].keys() == {"bandit/0"}
    assert "<img" in (folder / "index.html").read_text()
    assert "RLOO" in done.stdout and "Gibbs envelope" in done.stdout.replace("\n", " ")
    more = run(tmp_path, *few[:-3], "gates.controls=[]", "algos=[rloo,grpo]", "resume=card")
    assert more.returncode in (0, 1), more.stderr
    assert "2 of 3 cells were run before" in more.stdout
    cells = (folder / "cells.jsonl").read_text().splitlines()
    assert [json.loads(line)["name"] for line in cells][-1] == "bandit/grpo"
    assert len(cells) == 3


@pytest.fixture
def composing():
    register_schemas(base_rlhf=RLHFConfig, base_exact=CardConfig)
    with initialize_config_module("configs", version_base="1.3"):
        yield lambda *typed: OmegaConf.to_object(compose("exact", overrides=list(typed)))


@pytest.mark.parametrize(
    "typed, wanted",
    [
        ("tasks=[reviews]", "tasks='reviews': must be of bandit, repetition, token_tree"),
        ("algos=[trpo]", "algos='trpo': must be of best_of_n, cdpo"),
        ("algos=[rloo.mine]", "algos='rloo.mine': own.rloo.mine must say what it changes"),
        ("largest_budget=9", "largest_budget=9: at least smallest_budget=10"),
        ("seeds=0", "seeds=0: must be"),
        ("algos=[rloo,rloo@bandit]", "algos='rloo on bandit': asked for twice"),
        ("algos=[rloo@moon]", "algos='rloo@moon': @ must be of bandit"),
        ("gates.own=[grpoo/bandit]", "gates.own='grpoo/bandit': must be ALGO/TASK of the card"),
        ("gates.mispriced=[rloo/moon]", "gates.mispriced='rloo/moon': must be ALGO/TASK of"),
        ("largest.bandit=3", "largest.bandit=3: at least smallest_budget=10"),
    ],
)
def test_a_mistake_is_told_by_its_key(composing, typed, wanted):
    with pytest.raises(ConfigError) as caught:
        check_card(composing(typed))
    assert str(caught.value).startswith(wanted)


def test_what_trains_nothing_step_by_step_is_refused(composing):
    with pytest.raises(ConfigError, match=r"best_of_n.*trains nothing step by step"):
        settings(composing(), "bandit", "best_of_n")


def test_every_cell_has_the_same_objective_but_those_with_their_own(composing):
    config = composing()
    assert len(config.cells()) > 30
    for task, algo in config.cells():
        found = settings(config, task, algo)
        assert found.task.name == task and found.algo.name == algo.replace(".", "_")
        price = "kl_coef" if isinstance(found.algo, PolicyGradientConfig) else "beta"
        own = {"ipo": 0.1, "rloo.mispriced": 2 * config.beta}
        assert getattr(found.algo, price) == own.get(algo, config.beta)
        elsewhere = algo == "grpo" or "in_loss" in algo
        if isinstance(found.algo, PolicyGradientConfig) and not elsewhere:
            placed = (found.algo.kl_placement, found.algo.kl_estimator)
            assert placed == ("reward", "k1") and found.algo.kl_controller == "fixed"
