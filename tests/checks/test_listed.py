"""What a task whose completions are listed cannot have is refused, by its key."""

import dataclasses

import pytest

from rlhf_jax.checks.listed import of_task
from rlhf_jax.config import (
    AutomatonConfig,
    BanditConfig,
    PolicyGradientConfig,
    RLHFConfig,
    SamplingConfig,
    VariableLengthConfig,
)
from rlhf_jax.tasks import make_task

FEW = {"num_texts": 16, "num_pairs": 16}
KINDS = {
    "bandit": BanditConfig(**FEW),
    "variable_length": VariableLengthConfig(**FEW),
    "automaton": AutomatonConfig(**FEW, length=6),
}
BANDIT, ENDS, LONG = map(make_task, KINDS.values())


def refused(task, algo=None, **sampling):
    kind = KINDS[task.name]
    config = RLHFConfig(
        task=kind,
        sampling=dataclasses.replace(SamplingConfig(max_length=kind.length), **sampling),
        algo=algo or PolicyGradientConfig(),
    )
    return [key for key, _, _ in of_task(config, task)]


@pytest.mark.parametrize("task", [BANDIT, ENDS, LONG], ids=list(KINDS))
def test_plain_settings_pass(task):
    assert refused(task) == []


@pytest.mark.parametrize(
    "setting", [{"max_length": 5}, {"min_length": 0}, {"top_k": 2}, {"top_p": 0.5}]
)
def test_what_changes_the_texts_or_their_chances_is_refused(setting):
    assert refused(ENDS, **setting) == [f"sampling.{key}" for key in setting]


@pytest.mark.parametrize("setting", [{"max_length": 5}, {"top_k": 2}, {"top_p": 0.5}])
def test_what_makes_a_sampled_gap_wrong_is_refused(setting):
    assert refused(LONG, **setting) == [f"sampling.{key}" for key in setting]
    assert refused(LONG, min_length=6) == []


def test_texts_beyond_their_end_are_refused_where_there_are_ends():
    assert refused(ENDS, stop_at_eos=False) == ["sampling.stop_at_eos"]
    assert refused(BANDIT, stop_at_eos=False) == []


@pytest.mark.parametrize(
    "switch", [{"missing_eos": "subtract"}, {"mask_truncated": True}, {"overlong_buffer": 1}]
)
def test_rules_about_ends_are_refused_where_there_are_none(switch):
    algo = PolicyGradientConfig(**switch)
    assert refused(BANDIT, algo) == [f"algo.{key}" for key in switch]
    assert refused(ENDS, algo) == []
