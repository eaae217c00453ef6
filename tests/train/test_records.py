"""What a run tells at its end of a policy whose texts are too many to list."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from rlhf_jax.config import (
    AutomatonConfig,
    BestOfNConfig,
    PolicyGradientConfig,
    PreferenceConfig,
    RLHFConfig,
)
from rlhf_jax.tasks import make_task
from rlhf_jax.tasks.automaton.horizon import tilt_horizon
from rlhf_jax.tasks.automaton.instance import make_instance
from rlhf_jax.tasks.automaton.texts import draw_texts, log_probs
from rlhf_jax.tasks.automaton.walk import read
from rlhf_jax.train.exactly import fixed_price
from rlhf_jax.train.records import distance, shown_columns

BETA = 0.4
TASK = AutomatonConfig(letters=4, length=6, num_prompts=2, num_texts=16, num_pairs=4)
FIXED = PolicyGradientConfig(kl_controller="fixed", kl_coef=BETA)
CONFIG = RLHFConfig(task=TASK, algo=FIXED)


@pytest.fixture(scope="module")
def task():
    return make_task(TASK)


def evaluation(eta):
    """Texts of the optimum for an inverse price, as a run has those of its policy."""
    walk = make_instance(TASK).walk
    solved = tilt_horizon(walk, eta)
    texts = draw_texts(walk, solved, np.arange(400) % 2, np.random.default_rng(0))
    width = walk.prompts.shape[1]
    total = log_probs(solved, read(walk, texts, width))
    mask = np.ones((400, walk.horizon), bool)
    each = np.full(mask.shape, np.nan)  # what stands where nothing was drawn is not read
    each[:, 0], mask[:, 1:] = total, False
    rollout = SimpleNamespace(tokens=lambda: texts, completion_mask=mask, behavior_log_probs=each)
    return SimpleNamespace(rollout=rollout)


def test_the_optimum_is_nothing_away_and_the_reference_its_own_gap(task):
    assert distance(CONFIG, task, evaluation(1 / BETA))["exact/source_gap"] == pytest.approx(
        0, abs=1e-9
    )
    found = distance(CONFIG, task, evaluation(0.0))
    walk = make_instance(TASK).walk
    at = lambda eta: tilt_horizon(walk, eta).value[0, walk.starts].mean()
    expected = at(1 / BETA) - make_mean_reward(walk)
    assert abs(found["exact/source_gap"] - expected) < 4 * found["exact/source_gap_error"]
    assert found["exact/source_gap"] > 10 * found["exact/source_gap_error"]


def make_mean_reward(walk):
    return tilt_horizon(walk, 0.0).reward[0, walk.starts].mean()


def test_without_a_fixed_price_of_the_true_reward_there_is_no_distance(task):
    with_algo = lambda algo: dataclasses.replace(CONFIG, algo=algo)
    adaptive = dataclasses.replace(FIXED, kl_controller="adaptive")
    for algo in (adaptive, dataclasses.replace(FIXED, kl_placement="none"), BestOfNConfig()):
        assert fixed_price(algo) is None
        assert distance(with_algo(algo), task, None) == {}
    assert fixed_price(PreferenceConfig(beta=0.3)) == 0.3
    assert fixed_price(PreferenceConfig(loss="simpo", beta=0.3)) is None  # has no reference
    learned = dataclasses.replace(TASK, reward="reward_model")
    assert distance(dataclasses.replace(CONFIG, task=learned), task, None) == {}


def test_of_one_text_the_log_ratio_is_told_where_there_is_one(task):
    known = {"objective/scores": np.ones(2), "objective/kl": np.array([1.0, -2.0]), "other": None}
    told = shown_columns(CONFIG, task, SimpleNamespace(gold=np.zeros(2)), known)
    assert told["log_ratio"].tolist() == [1.0, -2.0] and "objective/kl" not in told
    best = dataclasses.replace(CONFIG, algo=BestOfNConfig())
    assert "log_ratio" not in shown_columns(best, task, SimpleNamespace(gold=np.zeros(2)), known)
