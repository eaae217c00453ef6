"""The gates of the report card: what passes, what misses, and that broken runs cannot pass."""

import dataclasses

import pytest

from rlhf_jax.config import CardConfig, GateConfig
from rlhf_jax.lab.gates import judge

GATES = GateConfig(
    task="token_tree",
    reach=["rloo"],
    own=["grpo/bandit"],
    controls=["broken/bandit"],
    mispriced=["dear/bandit"],
)
CONFIG = CardConfig(gates=GATES)


def runs(task, algo, gap, **changed):
    """Eight runs that end near a gap."""
    row = {
        "task": task,
        "algo": algo,
        "beta": 0.5,
        "beta_eff": 0.51,
        "beta_r2": 0.995,
        "above_envelope": 0,
        "own_gap_share": None,
    } | changed
    return [
        row | {"instance": i, "seed": s, "gap_share": [0.5, gap and gap * (1 + 0.05 * s)]}
        for i in range(2)
        for s in range(4)
    ]


def verdicts(rows, config=CONFIG):
    return {gate["name"]: gate["passed"] for gate in judge(config, rows)}


REACHED = "rloo reaches the optimum on token_tree"
ASKED = "rloo on token_tree optimised what it was asked to"
ABOVE = "no policy is above the Gibbs envelope"
RUN = "every cell was run"


def test_a_trainer_near_the_optimum_passes():
    found = verdicts(runs("token_tree", "rloo", 0.01))
    assert found == {REACHED: True, ASKED: True, ABOVE: True, RUN: True}


@pytest.mark.parametrize(
    "gap, changed, missed",
    [
        (0.03, {}, REACHED),
        (0.0199, {}, REACHED),  # the upper end of the interval counts, not the mean
        (None, {}, REACHED),  # runs that diverged
        (0.01, {"beta_eff": 0.55}, ASKED),
        (0.01, {"beta_eff": 0.45}, ASKED),
        (0.01, {"beta_r2": 0.9}, ASKED),
        (0.01, {"above_envelope": 1}, ABOVE),
    ],
)
def test_what_is_off_is_missed(gap, changed, missed):
    found = verdicts(runs("token_tree", "rloo", gap, **changed))
    assert [name for name, passed in found.items() if not passed] == [missed]


def test_a_run_without_a_slope_cannot_pass():
    found = verdicts(runs("token_tree", "rloo", 0.01, beta_eff=None, beta_r2=None))
    assert not found[ASKED]


def test_an_aim_of_its_own_is_held_to_that():
    name = "grpo reaches its own fixed point on bandit"
    own = {"own_gap_share": [0.5, 0.001]}
    assert verdicts(runs("bandit", "grpo", 0.3, **own))[name]
    far = {"own_gap_share": [0.5, 0.3]}
    assert not verdicts(runs("bandit", "grpo", 0.001, **far))[name]
    assert not verdicts(runs("bandit", "grpo", 0.001))[name]  # nothing was predicted
    assert name not in verdicts(runs("bandit", "rloo", 0.001))  # nothing was run


def test_the_control_must_miss():
    name = "broken misses the optimum on bandit"
    assert verdicts(runs("bandit", "broken", 0.4))[name]
    assert not verdicts(runs("bandit", "broken", 0.01))[name]
    assert not verdicts(runs("bandit", "broken", None))[name]  # broke down, learnt nothing


def test_a_wrong_price_must_be_seen():
    name = "dear is seen on bandit to have another price"
    assert verdicts(runs("bandit", "dear", 0.2, beta_eff=1.0))[name]
    assert not verdicts(runs("bandit", "dear", 0.2, beta_eff=0.51))[name]
    assert not verdicts(runs("bandit", "dear", 0.2, beta_eff=None))[name]  # broke down
    assert not verdicts(runs("bandit", "dear", 0.2, beta_eff=1.0, beta_r2=0.5))[name]  # no price


def test_a_cell_that_failed_fails_the_card():
    gates = judge(CONFIG, runs("token_tree", "rloo", 0.01), {"token_tree/ppo": "boom"})
    assert [g["name"] for g in gates if not g["passed"]] == [RUN]
    assert "token_tree/ppo" in gates[-1]["found"]


def test_thresholds_are_those_of_the_settings():
    strict = dataclasses.replace(GATES, gap_share=0.005)
    found = verdicts(runs("token_tree", "rloo", 0.01), CardConfig(gates=strict))
    assert not found[REACHED]
