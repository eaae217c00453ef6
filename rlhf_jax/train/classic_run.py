"""One run of PPO on an environment, from settings to records and pictures."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rlhf_jax.config import ClassicConfig, ConfigError, GridworldConfig, split_dynamic
from rlhf_jax.envs.layout import load_layout
from rlhf_jax.envs.make import make_env
from rlhf_jax.exact.mdp import optimal_policy, policy_values
from rlhf_jax.io.console import stage_progress
from rlhf_jax.io.params import save_params
from rlhf_jax.io.run_dir import RunDir, config_hash, run_facts, write_json
from rlhf_jax.io.sinks import Sink, make_sinks
from rlhf_jax.io.watchdog import Watchdog
from rlhf_jax.report.grid import save_frames
from rlhf_jax.report.grid_load import Frame, GridRun, write_frames
from rlhf_jax.report.load import load_metrics
from rlhf_jax.train.classic import Classic, ClassicState, make_classic
from rlhf_jax.train.health import TrainingStopped
from rlhf_jax.train.loop import compile_timed, stop_requests
from rlhf_jax.types import Array, Metrics

STAGE = "ppo"
LAST_EPISODES = 100  # of which the final return is the mean
RATIO_TOLERANCE = 1e-3  # of the first minibatch, where the policy is still the one that played
SHOWN = ("episode/return", "exact/regret_share")


class Outcome(NamedTuple):
    """What a run found."""

    summary: dict[str, Any]
    pictures: list[Path]  # the GIF last; none where the environment is no gridworld


@dataclasses.dataclass(frozen=True, eq=False)
class Lanes:
    """The seeds of a run in one program."""

    classic: Classic
    hparams: dict[str, Any]  # each [lanes]
    size: int

    def init(self) -> ClassicState:
        """The state before the first update, [lanes, ...]."""
        return jax.jit(jax.vmap(self.classic.init))(self.hparams)

    def advance(self, rows: int) -> Callable[..., tuple[ClassicState, Metrics]]:
        """`(states, hparams, count)` to states and metrics [lanes, rows], of which `count` hold."""
        return jax.vmap(lambda s, h, n: several(self.classic, s, h, n, rows), in_axes=(0, 0, None))

    def look(self, states: ClassicState) -> tuple[Array, Array]:
        """Policy and learnt values of the first lane."""
        first = lambda tree: jax.tree.map(lambda x: x[0], tree)
        return jax.jit(self.classic.look)(first(states), first(self.hparams))


def several(
    classic: Classic, state: ClassicState, hparams: dict[str, Any], count: Array, rows: int
) -> tuple[ClassicState, Metrics]:
    """`count` updates, at most `rows`; the number is traced, so a short end is no new program."""
    shapes = jax.eval_shape(classic.update, state, hparams)[1]
    blank = jax.tree.map(lambda s: jnp.zeros((rows, *s.shape), s.dtype), shapes)

    def body(i: Array, carry: tuple[ClassicState, Metrics]):
        state, metrics = classic.update(carry[0], hparams)
        return state, jax.tree.map(lambda kept, new: kept.at[i].set(new), carry[1], metrics)

    return lax.fori_loop(0, count, body, (state, blank))


def make_lanes(config: ClassicConfig) -> Lanes:
    """Every seed of the settings as a lane."""
    static, hparams = split_dynamic(config)
    each = lambda x: jnp.broadcast_to(jnp.asarray(x), (config.seeds,))
    hparams = jax.tree.map(each, hparams)
    seeds = np.arange(config.seeds, dtype=np.uint32) + np.uint32(config.seed)
    return Lanes(make_classic(static), hparams | {"seed": jnp.asarray(seeds)}, config.seeds)


def run_classic(config: ClassicConfig, path: Path) -> Outcome:
    """Trains, and writes metrics.jsonl, summary.json, the parameters and the pictures."""
    run_dir = RunDir(path)
    if run_dir.metrics.exists():
        raise ConfigError("hydra.run.dir", str(path), "already holds a run; choose another")
    lanes = make_lanes(config)
    run_dir.create()
    sink = make_sinks(config.sink, run_dir, dataclasses.asdict(config))
    try:
        states, frames, times, rows = train(config, lanes, sink)
    except BaseException:
        sink.close(failed=True)
        raise
    sink.close()
    save_params(run_dir.params("policy"), states.train.params)
    summary = summarize(config, rows, times)
    write_json(run_dir.summary, summary | run_facts())
    return Outcome(summary, draw(config, lanes, frames, run_dir))


def train(config: ClassicConfig, lanes: Lanes, sink: Sink):
    """The loop: final states, frames of the first seed, seconds, and metrics [lanes, updates]."""
    total = config.ppo.updates
    chunk = max(1, -(-total // config.frames))
    watchdog = Watchdog(config.run.stall_seconds, lambda: "")
    start, done, rows = time.monotonic(), 0, []
    with watchdog.guard(f"{STAGE} compilation"):
        states = lanes.init()
        args = states, lanes.hparams, jnp.int32(chunk)
        advance, compiling = compile_timed(lanes.advance(chunk), *args, donate=True)
    frames = [frame(config, lanes, states, 0)]
    begun = time.monotonic()
    progress = stage_progress(STAGE, total, enabled=config.run.progress)
    with stop_requests() as asked, progress as bar:
        while done < total and not asked:
            count = min(chunk, total - done)
            with watchdog.guard(f"{STAGE} update {done + 1}"):
                states, metrics = advance(states, lanes.hparams, jnp.int32(count))
                found = {k: np.asarray(v)[:, :count] for k, v in jax.device_get(metrics).items()}
            log_rows(config, sink, found, done, time.monotonic() - start)
            done += count
            rows.append(found)
            frames.append(frame(config, lanes, states, done))
            shown = {k: float(np.nanmean(found[k][:, -1])) for k in SHOWN if has_end(found, k)}
            bar.update(done, shown)
            check_health(config, found, states)
    times = {"compile": compiling, "training": time.monotonic() - begun}
    merged = {k: np.concatenate([part[k] for part in rows], axis=1) for k in rows[0]}
    return states, [f for f in frames if f is not None], times, merged


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


def check_health(config: ClassicConfig, found: dict[str, np.ndarray], states: ClassicState) -> None:
    """Stops when every seed has gone wrong, or the policy scored is not the one that played."""
    worst = float(np.nanmax(found["val/ratio_first_error"]))
    if worst > RATIO_TOLERANCE:
        raise TrainingStopped(
            f"{STAGE}: the probability ratio of the first minibatch is off 1 by {worst:.2g}: the "
            "policy that is learnt from is not the one that played."
        )
    streaks = np.asarray(states.train.skipped_in_a_row)
    if np.all(streaks >= config.run.max_skipped):
        raise TrainingStopped(
            f"{STAGE}: in every seed the last {streaks.min()} optimizer steps were dropped because "
            f"the loss or its gradient was not finite (run.max_skipped={config.run.max_skipped}). "
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


def frame(config: ClassicConfig, lanes: Lanes, states: ClassicState, done: int) -> Frame | None:
    """What the first seed has learnt so far, where it is a gridworld."""
    if not isinstance(config.env, GridworldConfig):
        return None
    mdp = make_env(config.env).mdp
    assert mdp is not None
    policy, learnt = lanes.look(states)
    true = policy_values(mdp(), policy, config.ppo.gamma)
    steps = done * config.ppo.batch_size
    return Frame(steps, np.asarray(policy), np.asarray(learnt), np.asarray(true))


def draw(config: ClassicConfig, lanes: Lanes, frames: list[Frame], run_dir: RunDir) -> list[Path]:
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
    pictures, gif = save_frames(run, curves, run_dir.plots)
    return [*pictures, gif]
