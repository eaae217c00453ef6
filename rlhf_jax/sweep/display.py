"""What a sweep says while it runs: stages, groups, runs done, time left, the best reward so far."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from contextlib import ExitStack

from rich.console import Console
from rich.text import Text

from rlhf_jax.io.console import Bar, stage_progress


class Display:
    """One bar for the stages that runs share, then one for the updates of all runs.

    Args:
      stages: models to train first, counted as SFT and reward model together.
      updates: of all runs.
    """

    def __init__(
        self, *, stages: int, updates: int, enabled: bool = True, console: Console | None = None
    ):
        self.totals = {"stages": stages, "updates": updates}
        self.enabled, self.console = enabled, console or Console()
        self.done = dict.fromkeys(self.totals, 0)
        self.stack, self.phase, self.bar = ExitStack(), "", None
        self.rewards: dict[int, float] = {}
        self.counts: dict[str, float] = {}

    def __enter__(self) -> Display:
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    def say(self, line: str) -> None:
        """A line above the bar."""
        self.console.print(Text(line), soft_wrap=True)

    def advance(self, phase: str, count: int) -> None:
        """So many more stages or updates are done; the bar changes with the first update."""
        self.done[phase] += count
        if self.phase != "updates":  # stages may end while the first runs are on their way
            self.show(phase)
        self.refresh()

    def show(self, phase: str) -> Bar | None:
        """Opens the bar of a phase, if it is not the one that is shown."""
        if phase != self.phase:
            self.stack.close()
            progress = stage_progress(
                phase, self.totals[phase], enabled=self.enabled, console=self.console
            )
            self.phase, self.bar = phase, self.stack.enter_context(progress)
        return self.bar

    def tell(self, counts: Mapping[str, float], rewards: Mapping[int, float]) -> None:
        """Numbers beside the bar: counts by name, and the newest reward of runs by number.

        A run whose reward is not finite is lost and shown no more.
        """
        self.counts |= counts
        known = {**self.rewards, **rewards}
        self.rewards = {run: reward for run, reward in known.items() if math.isfinite(reward)}
        self.refresh()

    def refresh(self) -> None:
        """Shows what is known now."""
        if self.bar is None:
            return
        shown = dict(self.counts)
        if self.rewards:
            values = list(self.rewards.values())
            shown |= {"best": max(values), "median": statistics.median(values)}
        self.bar.update(self.done[self.phase], shown)
