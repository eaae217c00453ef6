"""One run of PPO on an environment, from settings to records and pictures."""

from __future__ import annotations

import dataclasses
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rlhf_jax.config import ClassicConfig, ConfigError, GridworldConfig
from rlhf_jax.envs.layout import load_layout
from rlhf_jax.envs.make import make_env
from rlhf_jax.exact.mdp import optimal_policy, policy_values
from rlhf_jax.io.console import stage_progress, waiting
from rlhf_jax.io.params import save_params
from rlhf_jax.io.run_dir import RunDir, config_hash, run_facts, write_json
from rlhf_jax.io.sinks import Sink, make_sinks
from rlhf_jax.io.watchdog import Watchdog
from rlhf_jax.report.grid import save_frames
from rlhf_jax.report.grid_load import Frame, GridRun, write_frames
from rlhf_jax.report.load import load_metrics
from rlhf_jax.train.classic_lanes import Piece, Source, pieces
from rlhf_jax.train.health import TrainingStopped
from rlhf_jax.train.loop import stop_requests

STAGE = "ppo"
LAST_EPISODES = 100  # of which the final return is the mean
RATIO_TOLERANCE = 1e-3  # of the first minibatch, where the policy is still the one that played
SHOWN = ("episode/return", "exact/regret_share")


class Outcome(NamedTuple):
    """What a run found."""

    summary: dict[str, Any]
    pictures: list[Path]  # the GIF last; none where the environment is no gridworld


def run_classic(config: ClassicConfig, path: Path, source: Source = pieces) -> Outcome:
    """Trains, and writes metrics.jsonl, summary.json, the parameters and the pictures.

    Args:
      source: who trains, and tells of it: this process, unless said otherwise.
    """
    run_dir = RunDir(path)
    if run_dir.metrics.exists():
        raise ConfigError("hydra.run.dir", str(path), "already holds a run; choose another")
    make_env(config.env)  # before anything is written: its name may not be known
    run_dir.create()
    sink = make_sinks(config.sink, run_dir, dataclasses.asdict(config))
    try:
        last, frames, rows = record(config, source, sink)
    except BaseException:
        sink.close(failed=True)
        raise
    sink.close()
    save_params(run_dir.params("policy"), last.params)
    summary = summarize(config, rows, {"compile": last.compiling, "training": last.training})
    write_json(run_dir.summary, summary | run_facts())
    return Outcome(summary, draw(config, frames, run_dir))


def record(
    config: ClassicConfig, source: Source, sink: Sink
) -> tuple[Piece, list[Frame], dict[str, np.ndarray]]:
    """The loop: the last piece, frames of the first seed, and metrics [seeds, updates]."""
    total, watchdog = config.ppo.updates, Watchdog(config.run.stall_seconds)
    start, rows = time.monotonic(), []
    progress = stage_progress(STAGE, total, enabled=config.run.progress)
    with closing(source(config)) as coming:
        compiling = f"compiling {STAGE}"
        with watchdog.guard(compiling), waiting(compiling, config.run.progress):
            piece = next(coming)
        frames = [piece.frame]
        with stop_requests() as asked, progress as bar:
            while piece.done < total and not asked:
                with watchdog.guard(f"{STAGE} update {piece.done + 1}"):
                    before, piece = piece.done, next(coming)
                log_rows(config, sink, piece.metrics, before, time.monotonic() - start)
                rows.append(piece.metrics)
                frames.append(piece.frame)
                shown = (name for name in SHOWN if has_end(piece.metrics, name))
                bar.update(
                    piece.done, {k: float(np.nanmean(piece.metrics[k][:, -1])) for k in shown}
                )
                check_health(config, piece)
    merged = {k: np.concatenate([part[k] for part in rows], axis=1) for k in rows[0]}
    return piece, [f for f in frames if f is not None], merged


def has_end(found: dict[str, np.ndarray], name: str) -> bool:
    """Whether a number is there for some lane in the last update."""
    return name in found and bool(np.isfinite(found[name][:, -1]).any())


def log_rows(
    config: ClassicConfig, sink: Sink, found: dict[str, np.ndarray], done: int, seconds: float
) -> None:
    """A row an update and seed; without the numbers of episodes where none ended."""
    lanes, count = next(iter(found.values())).shape
    for i in range(count):
        for lane in range(lanes):
            numbers = {k: float(v[lane, i]) for k, v in found.items()}
            kept = {k: v for k, v in numbers.items() if not (k.startswith("episode/") and v != v)}
            place = {"stage": STAGE, "update": done + i + 1, "seconds": seconds}
            seed = {"seed": config.seed + lane} if lanes > 1 else {}
            sink.log(place | seed | kept)


def check_health(config: ClassicConfig, piece: Piece) -> None:
    """Stops when every seed has gone wrong, or the policy scored is not the one that played."""
    worst = float(np.nanmax(piece.metrics["val/ratio_first_error"]))
    if worst > RATIO_TOLERANCE:
        raise TrainingStopped(
            f"{STAGE}: the probability ratio of the first minibatch is off 1 by {worst:.2g}: the "
            "policy that is learnt from is not the one that played."
        )
    if np.all(piece.skipped >= config.run.max_skipped):
        raise TrainingStopped(
            f"{STAGE}: in every seed the last {piece.skipped.min()} optimizer steps were dropped "
            "because the loss or its gradient was not finite "
            f"(run.max_skipped={config.run.max_skipped}). "
            "Try a lower optim.learning_rate or a smaller optim.max_grad_norm."
        )


def last_returns(metrics: dict[str, np.ndarray], episodes: int = LAST_EPISODES) -> np.ndarray:
    """Mean return of each lane's last episodes, whole updates at a time; NaN where none ended.

    >>> metrics = {"episode/return": np.array([[1.0, 3.0]]), "episode/count": np.array([[9.0, 60]])}
    >>> last_returns(metrics, episodes=60).tolist()
    [3.0]
    """
    counts = metrics["episode/count"]
    totals = np.where(counts > 0, metrics["episode/return"] * counts, 0.0)
    later = np.cumsum(counts[:, ::-1], axis=1)[:, ::-1] - counts  # episodes after each update
    used = later < episodes
    seen = np.sum(counts * used, axis=1)
    mean = np.sum(totals * used, axis=1) / np.maximum(seen, 1)
    return np.where(seen > 0, mean, np.nan)


def summarize(
    config: ClassicConfig, metrics: dict[str, np.ndarray], times: dict[str, float]
) -> dict[str, Any]:
    """Final numbers of every seed, and how fast it went."""
    steps = config.seeds * config.ppo.batch_size * metrics["episode/count"].shape[1]
    plain = dataclasses.asdict(config)
    exact = [k for k in metrics if k.startswith("exact/")]
    return {
        "seeds": [config.seed + i for i in range(config.seeds)],
        "environment": config.env.name,
        "final": {"episode/return": last_returns(metrics).tolist()}
        | {k: metrics[k][:, -1].tolist() for k in exact},
        "first": {k: metrics[k][:, 0].tolist() for k in exact},  # after one update
        "updates": metrics["episode/count"].shape[1],
        "environment_steps": steps,
        "seconds": times,
        "steps_per_second": steps / max(times["training"], 1e-9),
        "config": plain,
        "config_hash": config_hash(plain),
    }


def draw(config: ClassicConfig, frames: list[Frame], run_dir: RunDir) -> list[Path]:
    """The pictures of a gridworld."""
    if not isinstance(config.env, GridworldConfig):
        return []
    layout, mdp_of = load_layout(config.env.layout), make_env(config.env).mdp
    assert mdp_of is not None
    mdp = mdp_of()
    best_policy = optimal_policy(mdp, config.ppo.gamma)
    best = policy_values(mdp, best_policy, config.ppo.gamma)
    run = GridRun(
        rows=layout.rows,
        cells=layout.cells,
        frames=frames,
        best_policy=np.asarray(best_policy),
        best=np.asarray(best),
        start_value=float(jnp.sum(mdp.start * best)),
    )
    write_frames(run_dir.plots / "frames.json", run)
    curves = load_metrics(run_dir.metrics)[STAGE]
    if "seed" in curves:
        first = curves["seed"] == config.seed
        curves = {k: v[first] for k, v in curves.items()}
    with waiting("drawing the pictures", config.run.progress):
        pictures, gif = save_frames(run, curves, run_dir.plots)
    return [*pictures, gif]
