"""What a sweep says where there is no terminal."""

import io
import math

from rich.console import Console

from rlhf_jax.sweep.display import Display


def test_stages_come_first_then_updates_with_the_best_and_the_median():
    out = io.StringIO()
    with Display(stages=1, updates=10, console=Console(file=out, width=200)) as display:
        display.advance("stages", 1)
        display.say("run 3 failed: no such word")
        display.advance("updates", 4)
        display.tell({"runs done": 2}, {0: 1.0, 1: 5.0, 2: 2.0, 3: 9.0})
        display.tell({}, {3: math.nan})  # lost
        display.advance("stages", 0)  # late: the bar of the updates stays
        display.advance("updates", 6)
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("stages") and lines[1] == "run 3 failed: no such word"
    assert lines[2].startswith("updates      4/10")
    assert "10/10" in lines[-1] and "runs done 2  best 5  median 2" in lines[-1]


def test_a_silent_sweep_shows_no_bar():
    out = io.StringIO()
    with Display(stages=1, updates=1, enabled=False, console=Console(file=out)) as display:
        display.advance("updates", 1)
    assert out.getvalue() == ""
