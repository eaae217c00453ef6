"""Where metrics go: metrics.jsonl always, and views of it (W&B, TensorBoard) when asked for."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rlhf_jax.config import ConfigError, SinkConfig
from rlhf_jax.io import console
from rlhf_jax.io.jsonl import read_rows
from rlhf_jax.io.run_dir import RunDir, finite, json_line, write_text

Row = Mapping[str, Any]
PLACE = ("stage", "update", "episode", "seconds", "nonfinite")  # where a row stands; not metrics


class Close(Protocol):
    """Ends a sink; `failed` says that the run ended with an error."""

    def __call__(self, failed: bool = False) -> None: ...


class Sink(NamedTuple):
    """Takes rows: `stage`, `update`, `episode`, `seconds`, then metric: number."""

    log: Callable[[Row], None]
    close: Close


def _nothing(failed: bool = False) -> None:
    pass


def jsonl_sink(path: Path) -> Sink:
    """Appends each row to `path` as one JSON object a line, on disk before `log` returns."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and path.read_bytes()[-1:] not in (b"", b"\n"):
        _append(path, "\n")  # a killed run left half a line: ours must not be glued to it

    # Opened anew for each row: `truncate_after` puts another file in its place.
    return Sink(lambda row: _append(path, json_line(row) + "\n"), _nothing)


def _append(path: Path, text: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(text)


def truncate_after(path: Path, stage: str, update: int) -> int:
    """Drops the rows of `stage` after `update`, which a resumed run will write again.

    Returns:
      How many rows were dropped. Rows of other stages stay, half-written lines go.
    """
    rows = list(read_rows(path))
    kept = [r for r in rows if r.get("stage") != stage or r.get("update", 0) <= update]
    if path.exists():
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
    return len(rows) - len(kept)


def wandb_sink(
    run_dir: RunDir,
    config: Mapping[str, Any],
    *,
    project: str = "rlhf_jax",
    mode: str = "online",
    group: str | None = None,
) -> Sink:
    """Sends rows to Weights & Biases; never asks anything on the terminal.

    A resumed run goes on in the W&B run it began, after the rows already in `metrics.jsonl`;
    updates that are computed again appear again.

    Args:
      run_dir: W&B keeps its own files in `wandb` there, and the run's id in `wandb_run_id`.
      config: the run's settings, shown beside the run.
      project: W&B project.
      mode: online, offline (files only, `wandb sync` later) or disabled.
      group: runs shown together, such as the seeds of one setting.

    Raises:
      ConfigError: mode is online and nobody is logged in.
    """
    import wandb

    if mode == "online" and not wandb.login(prompt=False, verify=False):
        remedy = "W&B is not logged in; run `wandb login`, or set sink.mode=offline"
        raise ConfigError("sink.mode", mode, remedy)
    # Quiet, and without a copy of the terminal: our own console speaks.
    settings = wandb.Settings(silent=True, console="off", init_timeout=30)
    run = wandb.init(
        project=project,
        mode=mode,  # pyright: ignore[reportArgumentType]
        group=group,
        name=run_dir.path.name,
        config=dict(config),
        dir=str(run_dir.path),
        settings=settings,
        **_same_run(run_dir, mode),
    )
    if mode == "online":
        console.note(f"W&B: {run.url}")
    if mode != "disabled":
        write_text(run_dir.wandb_run_id, run.id)
    step = max(run.step, sum(1 for _ in read_rows(run_dir.metrics)))

    def log(row: Row) -> None:
        nonlocal step  # stages restart `update`, W&B wants a counter that only grows
        run.log(metrics_of(row), step=step)
        step += 1

    return Sink(log, lambda failed=False: run.finish(exit_code=int(failed)))


def _same_run(run_dir: RunDir, mode: str) -> dict[str, Any]:
    """The arguments of `wandb.init` by which a resumed run continues its W&B run."""
    if mode == "disabled" or not run_dir.wandb_run_id.exists():
        return {}
    run_id = {"id": run_dir.wandb_run_id.read_text(encoding="utf-8").strip()}
    # Offline W&B only warns about `resume`; the id is what `wandb sync` goes by.
    return run_id | ({"resume": "allow"} if mode == "online" else {})


def tensorboard_sink(directory: Path) -> Sink:
    """Writes TensorBoard event files to `directory/tensorboard`.

    Raises:
      ConfigError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
    except ImportError:
        remedy = "needs tensorboardX; pip install 'rlhf_jax[tensorboard]'"
        raise ConfigError("sink.kind", "tensorboard", remedy) from None
    writer = SummaryWriter(logdir=str(directory / "tensorboard"), flush_secs=10)

    def log(row: Row) -> None:
        for name, value in metrics_of(row).items():
            writer.add_scalar(name, value, row.get("update"))

    return Sink(log, lambda failed=False: writer.close())


def metrics_of(row: Row) -> dict[str, float]:
    """The finite metrics of a row; names without a group get the stage's.

    >>> metrics_of({"stage": "sft", "update": 1, "loss": 2.0, "objective/kl": float("nan")})
    {'sft/loss': 2.0}
    """
    plain, _ = finite(row)
    stage, progress = plain.get("stage", "run"), ("episode", "seconds")
    numbers = {k: v for k, v in plain.items() if k in progress or k not in PLACE}
    numbers = {k: v for k, v in numbers.items() if isinstance(v, int | float)}
    return {k if "/" in k else f"{stage}/{k}": v for k, v in numbers.items()}


def all_of(*sinks: Sink) -> Sink:
    """One sink that passes every row to each of `sinks`, in order."""

    def log(row: Row) -> None:
        for sink in sinks:
            sink.log(row)

    def close(failed: bool = False) -> None:
        for sink in sinks:
            sink.close(failed)

    return Sink(log, close)


def guarded(sink: Sink, name: str) -> Sink:
    """A sink that, when it fails, says so once and is silent from then on."""
    alive = True

    def attempt(action: Callable[[], None]) -> None:
        nonlocal alive
        if not alive:
            return
        try:
            action()
        except Exception as error:  # whatever a view raises, the record is metrics.jsonl
            alive = False
            _lost(name, error)

    return Sink(
        lambda row: attempt(lambda: sink.log(row)),
        lambda failed=False: attempt(lambda: sink.close(failed)),
    )


def _lost(name: str, error: Exception) -> None:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    console.warn(f"{name} stopped ({reason}); metrics.jsonl goes on")


def make_sinks(sink: SinkConfig, run_dir: RunDir, config: Mapping[str, Any]) -> Sink:
    """The sink of a run: metrics.jsonl, and the one the settings name.

    Args:
      sink: the `sink` group of the settings.
      run_dir: where the run writes.
      config: all settings as a plain dict, for W&B.

    Raises:
      ConfigError: the sink cannot work as set (not logged in, not installed, unknown).
    """
    view = _view(sink, run_dir, config)
    record = jsonl_sink(run_dir.metrics)
    return record if view is None else all_of(record, guarded(view, sink.kind))


def _view(sink: SinkConfig, run_dir: RunDir, config: Mapping[str, Any]) -> Sink | None:
    builders: dict[str, Callable[[], Sink | None]] = {
        "jsonl": lambda: None,
        "wandb": lambda: wandb_sink(
            run_dir, config, project=sink.project, mode=sink.mode, group=sink.group
        ),
        "tensorboard": lambda: tensorboard_sink(run_dir.path),
    }
    if sink.kind not in builders:
        raise ConfigError("sink.kind", sink.kind, f"one of {', '.join(builders)}")
    os.makedirs(run_dir.path, exist_ok=True)
    try:
        return builders[sink.kind]()
    except ConfigError:
        raise
    except Exception as error:  # no network, a full quota: training need not wait for it
        _lost(sink.kind, error)
        return None
