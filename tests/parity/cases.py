"""What a comparison is, our side of it, and how far apart the two sides come out."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .draws import DRAWS, Arrays
from .peers import protocol

DTYPES = ("float32", "float64")
TOLERANCE = {"float32": 1e-6, "float64": 1e-10}


@dataclasses.dataclass(frozen=True)
class Case:
    """One function of ours against one of a peer's.

    Attributes:
        ours: what the table calls our function.
        peer: name of the environment and of the worker.
        theirs: what the table calls the peer's function.
        call: the function of the worker, and `options` it is given.
        draw: (rng, draw number) -> the arrays both sides get.
        run: our side: (**arrays) -> the value, or a dict of it and further outputs. "scale" among
            them is the least scale of the value: of a mean of signed terms, their mean size.
        wrt: arrays to differentiate by.
        dtypes: those the peer runs in.
        terms: the least scale of value and gradient, where both are differences of such terms.
    """

    ours: str
    peer: str
    theirs: str
    call: str
    draw: Callable[[np.random.Generator, int], Arrays]
    run: Callable[..., Any]
    wrt: tuple[str, ...] = ()
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    dtypes: tuple[str, ...] = DTYPES
    terms: float = 0.0

    @property
    def id(self) -> str:
        return f"{self.peer}: {self.ours} = {self.theirs}"


@dataclasses.dataclass(frozen=True)
class Difference(Case):
    """A case where we differ on purpose. It has either a `bridge` or an `expect`.

    Attributes:
        title: the difference in a line.
        right: who is right, and why.
        bridge: our functions made to do as the peer does; this must agree, and `run` must not.
        expect: (our answer, the peer's) -> whether they differ as the title says.
    """

    title: str = ""
    right: str = ""
    bridge: Callable[..., Any] | None = None
    expect: Callable[[Arrays, Arrays], bool] | None = None


@dataclasses.dataclass(frozen=True)
class Gap:
    """Largest relative differences over the draws, in the value and in the gradients."""

    value: float
    gradient: float | None


def inputs(case: Case, dtype: str) -> Arrays:
    """All draws of a case, stacked."""
    seed = zlib.crc32(case.id.encode())
    draws = [case.draw(np.random.default_rng([seed, i]), i) for i in range(DRAWS)]
    stacked = {name: np.stack([d[name] for d in draws]) for name in draws[0]}
    return {k: x.astype(dtype) if x.dtype == np.float64 else x for k, x in stacked.items()}


def evaluate(case: Case, dtype: str, run: Callable[..., Any] | None = None) -> Arrays:
    """Our side of all draws: the outputs and, for each array of `wrt`, the gradient."""
    run = run or case.run

    def one(arrays):
        rest = {name: x for name, x in arrays.items() if name not in case.wrt}

        def outputs(by):
            out = run(**by, **rest)
            out = out if isinstance(out, dict) else {"value": out}
            return out["value"], out

        by = {name: arrays[name] for name in case.wrt}
        if not by:
            return outputs(by)[1]
        value, pullback, out = jax.vjp(outputs, by, has_aux=True)
        weights = jnp.asarray(protocol.cotangent(value.shape), value.dtype)
        return out | {f"grad_{k}": g for k, g in pullback(weights)[0].items()}

    # On the CPU, where the peers are.
    with jax.enable_x64(dtype == "float64"), jax.default_device(jax.devices("cpu")[0]):
        arrays = {name: jnp.asarray(x) for name, x in inputs(case, dtype).items()}
        return {name: np.asarray(x) for name, x in jax.jit(jax.vmap(one))(arrays).items()}


def _flat(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([x.reshape(len(x), -1).astype(np.float64) for x in arrays], axis=1)


def relative_difference(
    ours: np.ndarray, theirs: np.ndarray, least: float | np.ndarray = 0.0
) -> float:
    """`max |a - b| / max(|b|, least)` of each draw, [draws, n]; the largest over the draws.

    The scale is that of the whole array of a draw: an entry that nearly cancels is not held to more
    digits than its neighbours have. Where the peer's array is 0, the difference itself counts. NaN
    on either side gives NaN, which no tolerance lets pass.
    """
    scale = np.maximum(np.abs(theirs).max(axis=1), least)
    return float((np.abs(ours - theirs).max(axis=1) / np.where(scale > 0, scale, 1.0)).max())


def compare(ours: Arrays, theirs: Arrays, terms: float = 0.0) -> Gap:
    """Over each output the peer gives, and over the gradient by all inputs together."""
    for name, x in theirs.items():
        assert ours[name].shape == x.shape, f"{name}: ours {ours[name].shape}, theirs {x.shape}"
    grads = [name for name in theirs if name.startswith("grad_")]
    least = np.maximum(ours.get("scale", 0.0), terms)

    def gap(names: list[str], least: float | np.ndarray) -> float:
        sides = (_flat([side[name] for name in names]) for side in (ours, theirs))
        return relative_difference(*sides, least)

    values = [gap([name], least) for name in theirs if name not in grads]
    return Gap(float(np.max(values)), gap(grads, terms) if grads else None)


def finite(arrays: Arrays) -> bool:
    return all(np.isfinite(x).all() for x in arrays.values())


def only_ours_finite(ours: Arrays, theirs: Arrays) -> bool:
    """In every draw."""
    draws_of = lambda arrays: [{k: x[i] for k, x in arrays.items()} for i in range(DRAWS)]
    return finite(ours) and not any(finite(answer) for answer in draws_of(theirs))
