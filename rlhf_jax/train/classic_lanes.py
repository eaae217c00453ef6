"""The seeds of a run as lanes of one program, and what they tell while they train."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rlhf_jax.config import ClassicConfig, GridworldConfig, split_dynamic
from rlhf_jax.envs.make import make_env
from rlhf_jax.exact.mdp import policy_values
from rlhf_jax.report.grid_load import Frame
from rlhf_jax.train.classic import Classic, ClassicState, make_classic
from rlhf_jax.train.loop import compile_timed
from rlhf_jax.types import Array, Metrics, Params


class Piece(NamedTuple):
    """What some seeds have done since the last piece, as numpy arrays; the first is a start."""

    done: int  # updates so far
    metrics: dict[str, np.ndarray]  # [seeds, updates of this piece]; empty in the first
    skipped: np.ndarray  # [seeds], optimizer steps dropped in a row
    params: Params  # [seeds, ...]
    frame: Frame | None  # of the first seed, where it is a gridworld
    compiling: float  # seconds
    training: float  # seconds so far


Pieces = Generator[Piece, None, None]
Source = Callable[[ClassicConfig], Pieces]


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
    update = jax.jit(classic.update)  # else traced for its shapes and again in the loop
    shapes = jax.eval_shape(update, state, hparams)[1]
    blank = jax.tree.map(lambda s: jnp.zeros((rows, *s.shape), s.dtype), shapes)

    def body(i: Array, carry: tuple[ClassicState, Metrics]):
        state, metrics = update(carry[0], hparams)
        return state, jax.tree.map(lambda kept, new: kept.at[i].set(new), carry[1], metrics)

    return lax.fori_loop(0, count, body, (state, blank))


def make_lanes(config: ClassicConfig) -> Lanes:
    """Every seed of the settings as a lane."""
    static, hparams = split_dynamic(config)
    each = lambda x: jnp.broadcast_to(jnp.asarray(x), (config.seeds,))
    hparams = jax.tree.map(each, hparams)
    seeds = np.arange(config.seeds, dtype=np.uint32) + np.uint32(config.seed)
    return Lanes(make_classic(static), hparams | {"seed": jnp.asarray(seeds)}, config.seeds)


def pieces(config: ClassicConfig, *, framed: bool = True) -> Pieces:
    """Trains in this process: a piece before the first update, then one a picture.

    Args:
      framed: whether the first seed is to be looked at.
    """
    lanes, total = make_lanes(config), config.ppo.updates
    rows = max(1, -(-total // config.frames))
    states = lanes.init()
    args = states, lanes.hparams, jnp.int32(rows)
    advance, compiling = compile_timed(lanes.advance(rows), *args, donate=True)
    start = time.monotonic()

    def piece(done: int, metrics: dict[str, np.ndarray]) -> Piece:
        train = states.train
        return Piece(
            done=done,
            metrics=metrics,
            skipped=np.array(train.skipped_in_a_row),
            params=jax.tree.map(np.array, train.params),  # copies: the state is given away
            frame=frame(config, lanes, states, done) if framed else None,
            compiling=compiling,
            training=time.monotonic() - start,
        )

    yield piece(0, {})
    start, done = time.monotonic(), 0
    while done < total:
        count = min(rows, total - done)
        states, metrics = advance(states, lanes.hparams, jnp.int32(count))
        done += count
        yield piece(done, {k: v[:, :count] for k, v in jax.device_get(metrics).items()})


def tell_pieces(tell: Callable[[str, Any], None], config: ClassicConfig, framed: bool) -> None:
    """In a worker process: sends every piece as it comes."""
    for piece in pieces(config, framed=framed):
        tell("piece", piece)


def joined(parts: list[Piece]) -> Piece:
    """Pieces of several programs at the same update as one, seeds in the order of the parts."""
    together = lambda *x: np.concatenate(x)
    return Piece(
        done=parts[0].done,
        metrics=jax.tree.map(together, *(part.metrics for part in parts)),
        skipped=together(*(part.skipped for part in parts)),
        params=jax.tree.map(together, *(part.params for part in parts)),
        frame=parts[0].frame,
        compiling=max(part.compiling for part in parts),
        training=max(part.training for part in parts),
    )


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
