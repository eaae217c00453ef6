"""Worker processes that outlive their work, and whose death is not the sweep's.

A standard process pool breaks as a whole when one process dies; here the rest goes on, and a
worker keeps what it has compiled from one piece of work to the next.
"""

from __future__ import annotations

import dataclasses
import importlib
import multiprocessing
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax import runtime
from rlhf_jax.config import RunConfig, UserError

START_SECONDS = 300.0  # that a worker may take until it says hello, at least
Tell = Callable[[str, Any], None]  # kind of message, content


class Message(NamedTuple):
    """What a worker says. Kinds of its own: hello (facts), done (result), failed ((line, trace)),
    refused (a line: its settings cannot work here).

    Further kinds are those of the work it does; `died` comes in the place of a worker's last word.
    """

    worker: Worker
    kind: str
    content: Any


@dataclasses.dataclass
class Worker:
    """One process as its parent sees it."""

    number: int
    process: Any
    pipe: Connection
    heard: float  # when it last gave a sign of life, by `time.monotonic`
    ready: bool = False  # it has said hello
    work: Any = None  # what it is busy with, as the caller knows it
    watched: Path | None = None  # a file it writes to, which is a sign of life too
    groups: set[int] = dataclasses.field(default_factory=set)  # whose programs it has

    def stalled(self, seconds: float) -> bool:
        """Whether it is starting or busy and has given no sign of life for so long."""
        age = time.monotonic() - self.heard
        if self.watched is not None and self.watched.exists():
            age = min(age, time.time() - self.watched.stat().st_mtime)
        if not self.ready:
            return age > max(seconds, START_SECONDS)
        return self.work is not None and age > seconds


class Workers:
    """Processes that take one piece of work at a time.

    Args:
      run: settings of the platform; each process sets itself up by them.
      logs: a directory for what the processes print.
    """

    def __init__(self, run: RunConfig, logs: Path):
        self.run, self.logs, self.all = run, logs, list[Worker]()
        self.context = multiprocessing.get_context("spawn")

    def start(self) -> Worker:
        """Starts one more process; it says `hello` when it is ready."""
        self.logs.mkdir(parents=True, exist_ok=True)
        taken = {worker.number for worker in self.all}
        number = next(n for n in range(len(taken) + 1) if n not in taken)
        mine, theirs = self.context.Pipe()
        arguments = (theirs, self.run, self.logs / f"worker_{number}.log")
        process = self.context.Process(target=serve, args=arguments, daemon=True)
        process.start()
        theirs.close()
        worker = Worker(number, process, mine, time.monotonic())
        self.all.append(worker)
        return worker

    def give(self, worker: Worker, function: str, *arguments: Any) -> None:
        """Hands a worker `module:function`, called with `tell` and these arguments."""
        worker.heard = time.monotonic()
        worker.pipe.send((function, arguments))

    def messages(self, timeout: float) -> Iterator[Message]:
        """What has been said since; waits at most so many seconds for the first of it."""
        ready = wait([worker.pipe for worker in self.all], timeout)
        for worker in [w for w in self.all if w.pipe in ready]:
            try:
                while worker.pipe.poll():
                    kind, content = worker.pipe.recv()
                    worker.heard, worker.ready = time.monotonic(), True
                    yield Message(worker, kind, content)
            except (EOFError, OSError):
                worker.process.join(5)
                self.all.remove(worker)
                yield Message(worker, "died", worker.process.exitcode)

    def end(self, worker: Worker) -> None:
        """Ends a process at once, whatever it is doing."""
        worker.process.kill()
        worker.process.join(5)
        worker.pipe.close()
        self.all.remove(worker)

    def close(self) -> None:
        """Ends all processes."""
        for worker in list(self.all):
            self.end(worker)


def serve(pipe: Connection, run: RunConfig, log: Path) -> None:
    """The life of a worker; Ctrl-C is for the process that has it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    redirect(log)
    tell: Tell = lambda kind, content: pipe.send((kind, content))
    try:
        runtime.setup(run)
        runtime.connect(run)
        from rlhf_jax.io.run_dir import run_facts

        tell("hello", run_facts())
        while True:
            function, arguments = pipe.recv()
            do(tell, function, arguments)
    except UserError as error:  # of the set-up: that of work is told by `do`
        tell("refused", str(error))
    except (EOFError, BrokenPipeError):  # the parent has gone
        return


def do(tell: Tell, function: str, arguments: tuple[Any, ...]) -> None:
    """One piece of work and its last word."""
    module, _, name = function.partition(":")
    try:
        found = getattr(importlib.import_module(module), name)(tell, *arguments)
    except Exception as error:
        traceback.print_exc()
        tell("failed", (one_line(error), traceback.format_exc()))
    else:
        tell("done", {"result": found, "peak_memory_bytes": peak_memory()})


def redirect(log: Path) -> None:
    """Sends all this process prints to a file, what its libraries print in C included."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(file, stream)
    os.close(file)


def one_line(error: BaseException) -> str:
    """An error in one line; without its kind where it is meant for the user.

    >>> one_line(ValueError("no such thing")), one_line(UserError("try less"))
    ('ValueError: no such thing', 'try less')
    """
    text = str(error).strip().splitlines()
    first = text[0] if text else ""
    return first if isinstance(error, UserError) else f"{type(error).__name__}: {first}"


def peak_memory() -> int:
    """The most memory this process has held, in bytes: of the accelerator where it has one."""
    import jax

    stats = jax.local_devices()[0].memory_stats() if jax.default_backend() != "cpu" else None
    if isinstance(stats, Mapping) and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
