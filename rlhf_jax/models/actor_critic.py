"""Policy and value networks of environments: perceptrons, apart or on one trunk."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from rlhf_jax.config import ConfigError, NetworkConfig
from rlhf_jax.models.functional import Model, from_nnx
from rlhf_jax.ops.policies import Categorical, Gaussian, Policy
from rlhf_jax.types import Array

SHARED = ("shared", "shared_stop_gradient")
ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu}


def linear(config: NetworkConfig, inputs: int, outputs: int, gain: float, rngs: nnx.Rngs):
    """A layer with bias 0."""
    init = nnx.initializers
    weights = init.orthogonal(gain) if config.init == "orthogonal" else init.lecun_normal()
    return nnx.Linear(inputs, outputs, kernel_init=weights, rngs=rngs)


def columns(layer: nnx.Linear, x: Array) -> Array:
    """`W^T x + b` of a batch that stands in columns, [inputs, N] to [outputs, N].

    With N far above the sizes of the layer, the gradient `x dy^T` of the weights is then a product
    that XLA's CPU library is made for; with a batch in rows, `x^T dy` takes three times as long.
    """
    assert layer.bias is not None
    return layer.kernel[...].T @ x + layer.bias[...][:, None]


def rows(layer: nnx.Linear, x: Array) -> Array:
    """`x W + b` of a batch that stands in rows, the faster way for a small one."""
    return layer(x)


Affine = Callable[[nnx.Linear, Array], Array]


class Trunk(nnx.Module):
    """Hidden layers."""

    def __init__(self, config: NetworkConfig, inputs: int, rngs: nnx.Rngs):
        sizes = [inputs] + [config.width] * config.layers
        pairs = itertools.pairwise(sizes)
        self.layers = nnx.List([linear(config, i, o, config.hidden_gain, rngs) for i, o in pairs])
        self.activation = ACTIVATIONS[config.activation]
        self.outputs = sizes[-1]

    def __call__(self, x: Array, affine: Affine) -> Array:
        for layer in self.layers:
            x = self.activation(affine(layer, x))
        return x


class PolicyHead(nnx.Module):
    """Logits of a few actions; or means, with a deviation that does not look at the state."""

    def __init__(self, config: NetworkConfig, inputs: int, outputs: int, box: bool, rngs: nnx.Rngs):
        self.out = linear(config, inputs, outputs, config.policy_gain, rngs)
        self.log_std = nnx.Param(jnp.full((outputs,), config.log_std)) if box else None

    def __call__(self, out: Array) -> Policy:
        if self.log_std is None:
            return Categorical(out)
        return Gaussian(out, jnp.broadcast_to(self.log_std[...], out.shape))


class ActorCritic(nnx.Module):
    """Observations [..., *shape] to a policy and values [...]; the observation is flattened."""

    def __init__(
        self, config: NetworkConfig, shape: tuple[int, ...], actions: int, box: bool, rngs: nnx.Rngs
    ):
        inputs = flat_size(shape)
        self.shape, self.sharing, self.width = shape, config.value_sharing, config.width
        self.trunk = Trunk(config, inputs, rngs)
        self.policy = PolicyHead(config, self.trunk.outputs, actions, box, rngs)
        shared = config.value_sharing in SHARED
        self.value_trunk = None if shared else Trunk(config, inputs, rngs)
        self.value = linear(config, self.trunk.outputs, 1, config.value_gain, rngs)

    def __call__(self, observations: Array) -> tuple[Policy, Array]:
        leading = observations.shape[: observations.ndim - len(self.shape)]
        count = flat_size(leading)
        x = observations.astype(jnp.float32).reshape(count, flat_size(self.shape))
        affine, turned = rows, lambda x: x
        if count > self.width:
            affine, turned = columns, lambda x: x.T
            x = lax.optimization_barrier(x.T)  # or XLA would turn it again in every product
        hidden = self.trunk(x, affine)
        seen = hidden if self.value_trunk is None else self.value_trunk(x, affine)
        if self.sharing == "shared_stop_gradient":
            seen = lax.stop_gradient(seen)
        out = turned(affine(self.policy.out, hidden)).reshape(*leading, -1)
        return self.policy(out), affine(self.value, seen).reshape(leading)


def flat_size(shape: tuple[int, ...]) -> int:
    """Numbers in one observation.

    >>> flat_size((10, 10, 4)), flat_size(())
    (400, 1)
    """
    size = 1
    for length in shape:
        size *= length
    return size


def make_actor_critic(
    config: NetworkConfig, observation_shape: tuple[int, ...], actions: int, *, box: bool = False
) -> Model:
    """`apply(params, observations [..., *shape]) -> (policy, values [...])`.

    Args:
        config: sizes, initialisation and how much the two share.
        observation_shape: of one observation.
        actions: number of choices, or with `box` the length of a vector of real numbers.
        box: whether actions are such vectors.

    Raises:
        ConfigError: `separate_matched` and no width is small enough.

    >>> model = make_actor_critic(NetworkConfig(width=8), (3,), 2)
    >>> policy, values = model.apply(model.init(jax.random.key(0)), jnp.ones((5, 3)))
    >>> policy.logits.shape, values.shape
    ((5, 2), (5,))
    """
    if config.value_sharing == "separate_matched":
        config = matched(config, flat_size(observation_shape), actions)
    return from_nnx(lambda rngs: ActorCritic(config, observation_shape, actions, box, rngs))


def trunk_size(inputs: int, width: int, layers: int) -> int:
    """Parameters of the hidden layers."""
    return sum((i + 1) * width for i in [inputs] + [width] * (layers - 1)) if layers else 0


def matched(config: NetworkConfig, inputs: int, actions: int) -> NetworkConfig:
    """The widest network of which two trunks cost no more than one of `config` does shared.

    `2 trunk(w') + (A + 1)(w' + 1) <= trunk(w) + (A + 1)(w + 1)`.

    Raises:
        ConfigError: not even one unit fits.

    >>> matched(NetworkConfig(width=64), 4, 2).width
    44
    """
    if not config.layers:
        return config
    cost = lambda width, trunks: (
        trunks * trunk_size(inputs, width, config.layers) + (actions + 1) * (width + 1)
    )
    target = cost(config.width, 1)
    for width in range(config.width, 0, -1):
        if cost(width, 2) <= target:
            return dataclasses.replace(config, width=width)
    accepted = f"network.width={config.width} is too small for two trunks of half the size"
    raise ConfigError("network.value_sharing", "separate_matched", accepted)
