"""A model as a pair of pure functions, and the one place where an NNX module becomes one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
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
    `bos` and `eos` are beginning and end of a language model's texts, -1 of a network without.
    """

    init: Callable[[Key], Params]
    apply: Callable[..., Any]
    top: Callable[..., Any] = no_top
    eos: int = -1
    bos: int = -1


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


@functools.partial(jax.jit, static_argnums=(0, 3))
def call(
    graph: nnx.GraphDef, params: Any, inputs: tuple[Any, ...], static: tuple[Hashable, ...]
) -> Any:
    """What a module gives for these inputs, from its graph and parameters."""
    return nnx.merge(graph, params)(*inputs, *static)


def traced_once(module: nnx.Module, *inputs: Any, static: tuple[Hashable, ...] = ()) -> Any:
    """`module(*inputs, *static)`, traced and lowered once for all modules of its architecture.

    A deep network of equal blocks then takes hardly longer to trace than a shallow one; XLA
    inlines the calls. `static` are its last arguments, hashable. Parameters must be the module's
    only state: other changes are lost.

    >>> layers = [nnx.Linear(2, 2, rngs=nnx.Rngs(seed)) for seed in (0, 1)]
    >>> f = lambda x: traced_once(layers[1], traced_once(layers[0], x))
    >>> str(jax.make_jaxpr(f)(jax.numpy.ones(2))).count("dot_general")  # one, for two products
    1
    """
    graph, params = nnx.split(module)
    return call(graph, params, inputs, static)


def parameter_count(params: Params) -> int:
    """Number of scalars in a parameter tree."""
    return sum(x.size for x in jax.tree.leaves(params))
