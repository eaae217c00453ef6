"""What people see on the terminal, and what a log file gets instead."""

import io
import re

import pytest
from rich.console import Console

from rlhf_jax.io import console
from rlhf_jax.io.comparison import print_comparison, print_run_dir, print_samples


def plain(width=80):
    return Console(file=io.StringIO(), width=width, force_terminal=False)


def output(screen):
    return screen.file.getvalue()


def test_plain_progress_prints_every_tenth_without_escapes():
    screen = plain()
    with console.stage_progress("sft", 200, console=screen) as bar:
        for step in range(1, 201):
            bar.update(step, {"loss": 1.2345, "kl": 3.0})
    lines = output(screen).splitlines()
    assert len(lines) == 10 and "\x1b" not in output(screen)
    assert re.fullmatch(r"sft +20/200  0:00  0:00 left  loss 1\.23  kl 3", lines[0])
    assert re.fullmatch(r"sft +200/200  0:00  loss 1\.23  kl 3", lines[-1])


def test_plain_progress_speaks_after_ten_seconds(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(console._Clock.__init__, "__defaults__", (lambda: now[0],))
    screen = plain()
    with console.stage_progress("ppo", 1000, console=screen) as bar:
        for step in range(1, 31):
            now[0] += 1
            bar.update(step)
    lines = output(screen).splitlines()
    assert [line.split()[1] for line in lines] == ["10/1000", "20/1000", "30/1000"]
    assert lines[0].endswith("0:10  16:30 left")


def test_live_progress_shows_the_numbers():
    screen = Console(file=io.StringIO(), width=100, force_terminal=True, legacy_windows=False)
    with console.stage_progress("ppo", 4, console=screen) as bar:
        assert isinstance(bar, console._LiveBar)
        for step in range(1, 5):
            bar.update(step, {"score": step / 3})
    assert "score 1.33" in output(screen) and "4/4" in output(screen)


def test_what_has_no_steps_is_named_on_a_terminal_and_nowhere_else():
    screen = Console(file=io.StringIO(), width=100, force_terminal=True, legacy_windows=False)
    log = plain()
    for place in (screen, log):
        with console.waiting("compiling [ppo]", console=place):
            pass
    with console.waiting("compiling ppo", enabled=False, console=screen):
        pass
    assert output(screen).count("compiling [ppo]") >= 1 and output(log) == ""
    assert "compiling ppo" not in output(screen)


def test_disabled_progress_is_silent(capsys):
    with console.stage_progress("ppo", 4, enabled=False) as bar:
        bar.update(4, {"score": 1.0})
    assert capsys.readouterr().out == ""


def test_note_and_warn_are_one_plain_line_each(capsys):
    console.note("a [bold] note " + "x" * 200)
    console.warn("mind the gap")
    captured = capsys.readouterr()
    assert captured.out == "a [bold] note " + "x" * 200 + "\n"
    assert captured.err == "warning: mind the gap\n"


@pytest.mark.parametrize("width", [80, 140])
def test_comparison_has_labels_units_and_changes(width):
    screen = plain(width)
    print_comparison(
        {"gold/score": 0.5, "objective/kl": 0.0, "mine": 1.0},
        {"gold/score": 1.75, "objective/kl": float("nan")},
        screen,
    )
    text = output(screen)
    assert re.search(r"gold reward +0\.5 +1\.75 +\+1\.25 +points", text)
    assert re.search(r"KL from the start +0 +- +nats/text", text)
    assert ("the task's true reward" in text) == (width == 140)
    assert max(map(len, text.splitlines())) <= width


@pytest.mark.parametrize("width", [80, 140])
def test_samples_wrap_and_keep_brackets(width):
    screen = plain(width)
    sample = {
        "prompt": "the film",
        "before": "was [red]long[/red] " * 20,
        "after": "was good",
        "after_scores": {"objective/scores": 1.5, "gold/score": None},
    }
    print_samples([sample], screen)
    text = output(screen)
    assert text.count("[red]long[/red]") == 20 or width == 80
    assert "score trained on 1.5" in re.sub(r"\s+", " ", text)
    assert max(map(len, text.splitlines())) <= width


def test_run_dir_is_not_wrapped():
    screen = plain(20)
    print_run_dir("outputs/" + "x" * 50, screen)
    assert output(screen) == "Everything is in outputs/" + "x" * 50 + "\n"


def test_where_it_is_narrow_the_numbers_are_cut_and_not_the_bar():
    screen = Console(file=io.StringIO(), width=80, force_terminal=True, legacy_windows=False)
    numbers = {name: 0.0788 for name in ("objective/scores", "gold/score", "objective/kl", "coef")}
    with console.stage_progress("reward_model", 80, console=screen) as bar:
        bar.update(1, numbers)
        bar.update(37, numbers)
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", output(screen)).replace("\r", "\n")
    assert "37/80" in last and "0:00:00" in last and "objective/scores 0.0788" in last
    assert max(map(len, last.splitlines())) <= 80
