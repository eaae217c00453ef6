"""What the README says of a card is read off it."""

from types import SimpleNamespace

import pytest

from benchmarks import card
from rlhf_jax.config import UserError

CELLS = [("token_tree", algo) for algo in (*card.SAMPLED, "dpo")]
CELLS += [("bandit", card.K1), ("bandit", card.K3)]


def line(task, algo, gap):
    number = lambda value: SimpleNamespace(value=value)
    names = {"task": task, "algo": algo, "kind": "trained"}
    return names | {"gap": number(gap), "own_gap": number(gap / 100), "beta_error": number(gap / 2)}


def lines():
    return [line(task, algo, (i + 1) / 100) for i, (task, algo) in enumerate(CELLS)]


def test_the_sentences_name_the_worst_of_the_sampled_and_the_two_of_the_loss():
    said = card.meaning(lines()).replace("\n", " ")
    assert "within 4.0 % of the known optimum" in said
    assert "price of KL they were given to 2.0 %; DPO on pairs is 5.0 % away" in said
    assert (
        "ends 7 % of the gap away with k3, which is its own predicted fixed point to 0.07 %" in said
    )
    assert "and 6 % with k1" in said


@pytest.mark.parametrize("missing", range(len(CELLS)))
def test_a_part_of_a_card_is_refused(missing):
    found = lines()
    task, algo = CELLS[missing]
    del found[missing]
    with pytest.raises(UserError, match=f"lacks {task}/{algo}"):
        card.meaning(found)


def test_gates_are_counted_and_those_missed_are_named():
    gate = lambda name, passed: {"name": name, "passed": passed, "found": "0.03"}
    assert card.verdict([gate("a", True)]) == "1 of 1 gates passed."
    assert (
        card.verdict([gate("a", True), gate("b", False)])
        == "1 of 2 gates passed; missed: b (0.03)."
    )


def test_the_command_and_the_time_are_those_of_the_card():
    typed = "python -m experiments.exact seeds=4 hydra.run.dir=/tmp/x 'tasks=[bandit]'"
    found = {"facts": {"command": typed, "seconds": 1019.6, "device": "2 cores (cpu)"}}
    assert card.command(found) == "python -m experiments.exact seeds=4 'tasks=[bandit]'"
    assert card.took(found) == "17:00 minutes on 2 cores (cpu)"
