"""The parts of the profile are what an update is made of, each as often as it calls it."""

import pytest

from benchmarks.ppo_update_work import Work
from benchmarks.profile_update import clock, in_an_update
from benchmarks.profile_update_parts import DIFFERENTIATED, WHOLE

WORK = Work(8, 3, 16, epochs=2, minibatches=5)


def test_parts_add_up_to_the_calls_that_hold_them():
    names = [*WHOLE, *DIFFERENTIATED, *(f"{name} gradient" for name in DIFFERENTIATED)]
    seconds = {name: 1.0 + i**2 for i, name in enumerate(names)}
    found = in_an_update(WORK, seconds)
    of = lambda start: sum(v for k, v in found.items() if k.startswith(start))
    assert of("rollout") == seconds["rollout"]
    assert of("forward") + of("backward") == pytest.approx(10 * seconds["gradient"])
    beyond = seconds["attention gradient"] - seconds["attention"]
    assert found["backward: attention"] == 10 * 2 * 3 * beyond  # steps, models, layers
    apart = sum(found[name] for name in ("reference", "values", "advantages, metrics"))
    assert apart == pytest.approx(seconds["experience"])


def test_calls_take_turns():
    told = []
    clock({"a": lambda: told.append("a"), "b": lambda: told.append("b")}, least=3, enough=0.0)
    assert told == ["a", "b"] * 4  # one round to warm up
