"""Says so when a compiled call never returns, instead of leaving a silent terminal."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rlhf_jax.config import ConfigError

ADVICE = (
    "If it never ends: fewer threads help (run.threads=1, or NPROC=1 in the environment), or "
    "another run.device; run.stall_seconds sets when this message appears."
)


class Watchdog:
    """Watches blocks that may stall; reports, never kills.

    Args:
      stall_seconds: silence after which a block is reported; again after twice as long, and so on.
      message: returns a line on what is safe, such as the last checkpoint.

    Raises:
      ConfigError: `stall_seconds` is not above 0.
    """

    def __init__(self, stall_seconds: float, message: Callable[[], str] = lambda: ""):
        if stall_seconds <= 0:
            raise ConfigError("run.stall_seconds", stall_seconds, "must be above 0")
        self.stall_seconds, self.message = stall_seconds, message

    @contextmanager
    def guard(self, call: str) -> Iterator[None]:
        """Reports if the block is still running after `stall_seconds`.

        Args:
          call: what runs, such as "ppo update 12".
        """
        done = threading.Event()
        # A thread a block costs 0.1 ms and leaves no state to clean up.
        threading.Thread(target=self._watch, args=(call, done), daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _watch(self, call: str, done: threading.Event) -> None:
        waited, pause = 0.0, self.stall_seconds
        while not done.wait(pause):
            waited += pause
            pause = waited  # so reports come at 1, 2, 4, 8 ... times stall_seconds
            lines = [
                f"stalled: {call} has not returned for {waited:.0f} s.",
                self.message(),
                ADVICE,
            ]
            print("\n".join(line for line in lines if line), file=sys.stderr, flush=True)
