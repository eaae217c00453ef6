"""A model as a pair of pure functions, and the one place where an NNX module becomes one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from flax import nnx

from rlhf_jax.types import Key, Params


def no_top(*args: Any, **kwargs: Any) -> Any:
    """Stands for `top` where a network cannot be cut in two."""
    raise NotImplementedError("this model has no upper layers that can be run alone")


class Model(NamedTuple):
    """A network: `init(key) -> params` and `apply(params, *inputs)`, both pure and vmappable.

    `top(params, tapped, mask, *, layers, window)` runs copies of its last layers alone.
    `eos` is the end of sequence of a language model, -1 of a network without one.
    """

    init: Callable[[Key], Params]
    apply: Callable[..., Any]
    top: Callable[..., Any] = no_top
    eos: int = -1


def from_nnx(build: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """Wraps a module whose only state is its parameters; these become a plain nested dict.

    The graph definition is taken once from shapes alone, so building a model costs nothing and
    two equal architectures share compiled programs.

    >>> model = from_nnx(lambda rngs: nnx.Linear(2, 3, rngs=rngs))
    >>> params = model.init(jax.random.key(0))
    >>> params["kernel"].shape, model.apply(params, jax.numpy.ones((1, 2))).shape
    ((2, 3), (1, 3))
    """
    graph = nnx.graphdef(nnx.eval_shape(lambda: build(nnx.Rngs(0))))

    def init(key: Key) -> Params:
        return nnx.to_pure_dict(nnx.split(build(nnx.Rngs(key)), nnx.Param)[1])

    def apply(params: Params, *args: Any, **kwargs: Any) -> Any:
        return nnx.merge(graph, params)(*args, **kwargs)

    return Model(init, apply)


def parameter_count(params: Params) -> int:
    """Number of scalars in a parameter tree."""
    return sum(x.size for x in jax.tree.leaves(params))
