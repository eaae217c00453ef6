"""What a run says on the terminal: notes, warnings and one progress line per stage."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column
from rich.text import Text


def note(message: str) -> None:
    """Prints one line for the user."""
    Console().print(Text(message), soft_wrap=True)


def warn(message: str) -> None:
    """Prints one line on the error stream, marked as a warning."""
    text = Text.assemble(("warning: ", "bold yellow"), message)
    Console(file=sys.stderr).print(text, soft_wrap=True)


class Bar(Protocol):
    """What a stage reports its progress to."""

    def update(self, step: int, numbers: Mapping[str, float] | None = None) -> None:
        """Says that `step` steps are done, and the numbers that matter now."""
        ...


@contextmanager
def stage_progress(
    stage: str, total: int, enabled: bool = True, console: Console | None = None
) -> Iterator[Bar]:
    """Shows how far a stage has come: a live bar on a terminal, now and then a line elsewhere.

    Args:
      stage: name shown in front, such as "sft".
      total: steps in the stage.
      enabled: False shows nothing.
      console: where to; the standard output by default.

    >>> with stage_progress("sft", 20, enabled=False) as bar:
    ...     bar.update(1, {"loss": 1.25})
    """
    console = console or Console()
    if not enabled:
        yield _Silent()
    elif console.is_terminal and not console.is_dumb_terminal:
        with _live(console) as progress:
            yield _LiveBar(progress, stage, total)
    else:
        yield _PlainBar(stage, total, lambda line: console.print(Text(line), soft_wrap=True))


@contextmanager
def waiting(what: str, enabled: bool = True, console: Console | None = None) -> Iterator[None]:
    """Shows on a terminal that something without steps is under way; elsewhere nothing.

    >>> with waiting("compiling ppo", enabled=False):
    ...     pass
    """
    console = console or Console()
    live = enabled and console.is_terminal and not console.is_dumb_terminal
    with console.status(Text(what)) if live else nullcontext():
        yield


def short_number(value: float) -> str:
    """Three significant digits, without needless zeros or exponents; rounding errors are 0.

    >>> [short_number(x) for x in (0.0123456, 1.0, 12.345, 12345.6, 3e-5, -5e-9)]
    ['0.0123', '1', '12.3', '12346', '3e-05', '0']
    """
    if abs(value) < 1e-6:
        return "0"
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def short_time(seconds: float) -> str:
    """Hours, minutes and seconds.

    >>> short_time(75), short_time(3725)
    ('1:15', '1:02:05')
    """
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def _numbers(numbers: Mapping[str, float] | None) -> str:
    return "  ".join(f"{name} {short_number(float(v))}" for name, v in (numbers or {}).items())


class _Clock:
    """Elapsed time, and the time left at the pace since the first report.

    The first step holds the compilation, so the pace is taken after it.
    """

    def __init__(self, total: int, now: Callable[[], float] = time.monotonic):
        self.total, self.now, self.start = total, now, now()
        self.first: tuple[int, float] | None = None

    def elapsed(self) -> str:
        """Such as "0:12"."""
        return short_time(self.now() - self.start)

    def left(self, step: int) -> str:
        """Such as "1:30 left"; empty while unknown and at the end."""
        now = self.now()
        if self.first is None:
            self.first = (step, now)
        steps, seconds = step - self.first[0], now - self.first[1]
        if steps <= 0 or step >= self.total:
            return ""
        return f"{short_time(seconds / steps * (self.total - step))} left"


class _Silent:
    def update(self, step: int, numbers: Mapping[str, float] | None = None) -> None:
        pass


class _LiveBar:
    def __init__(self, progress: Progress, stage: str, total: int):
        self.progress, self.clock = progress, _Clock(total)
        self.task = progress.add_task(stage, total=total, left="", numbers="compiling")

    def update(self, step: int, numbers: Mapping[str, float] | None = None) -> None:
        shown = _numbers(numbers)
        self.progress.update(self.task, completed=step, left=self.clock.left(step), numbers=shown)


def _live(console: Console) -> Progress:
    whole = lambda: Column(no_wrap=True)
    return Progress(
        TextColumn("{task.description:<12}", markup=False, table_column=whole()),
        BarColumn(bar_width=16, table_column=whole()),
        TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False, table_column=whole()),
        TimeElapsedColumn(table_column=whole()),
        TextColumn("{task.fields[left]}", style="dim", markup=False, table_column=whole()),
        # Where it gets narrow the numbers are cut, never the bar.
        TextColumn(
            "{task.fields[numbers]}", markup=False, table_column=Column(ratio=1, no_wrap=True)
        ),
        expand=True,
        console=console,
        refresh_per_second=5,
    )


class _PlainBar:
    """Prints when another tenth is done or ten seconds have passed, and at the end."""

    def __init__(self, stage: str, total: int, write: Callable[[str], None]):
        self.stage, self.total, self.write = stage, total, write
        self.clock = _Clock(total)
        self.tenth, self.spoke = 0, self.clock.start

    def update(self, step: int, numbers: Mapping[str, float] | None = None) -> None:
        tenth, now = 10 * step // max(self.total, 1), self.clock.now()
        times = f"{self.clock.elapsed()}  {self.clock.left(step)}".rstrip()
        if tenth > self.tenth or now - self.spoke >= 10:
            self.tenth, self.spoke = tenth, now
            place = f"{self.stage:<12} {step}/{self.total}  {times}"
            self.write(f"{place}  {_numbers(numbers)}".rstrip())
