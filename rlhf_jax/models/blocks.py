"""Parts of the transformer: rotary positions, RMSNorm, grouped-query attention, SwiGLU."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from rlhf_jax.config import ConfigError, ModelConfig
from rlhf_jax.models.cache import write
from rlhf_jax.types import Array


@jax.custom_vjp
def matmul(x: Array, y: Array) -> Array:
    """Matrix product over the last two axes, sums in float32; gradients in the operands' type."""
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


def matmul_bwd(operands: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    (x, y), grad = operands, grad.astype(operands[0].dtype)
    left = matmul_transposed(grad, y)
    right = jnp.matmul(transposed(x, like=grad), grad, preferred_element_type=jnp.float32)
    return left.astype(x.dtype), right.astype(y.dtype)


matmul.defvjp(lambda x, y: (matmul(x, y), (x, y)), matmul_bwd)


@jax.custom_vjp
def matmul_transposed(x: Array, y: Array) -> Array:
    """`x y^T` over the last two axes of [B, K, ...], as `matmul`, without a transpose of `y`."""
    dims = ((x.ndim - 1,), (y.ndim - 1,))
    batch = tuple(range(x.ndim - 2))
    return lax.dot_general(x, y, (dims, (batch, batch)), preferred_element_type=jnp.float32)


def matmul_transposed_bwd(operands: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    (x, y), grad = operands, grad.astype(operands[0].dtype)
    left = jnp.matmul(grad, y, preferred_element_type=jnp.float32)
    right = jnp.matmul(transposed(grad, like=x), x, preferred_element_type=jnp.float32)
    return left.astype(x.dtype), right.astype(y.dtype)


matmul_transposed.defvjp(lambda x, y: (matmul_transposed(x, y), (x, y)), matmul_transposed_bwd)


def transposed(x: Array, *, like: Array) -> Array:
    """The transpose of the last two axes of `x` [..., N, K], for a product with `like` [..., N, M].

    On a CPU it is copied before the product if that is one of a batch, or has at least as many rows
    as columns (K >= M): XLA's kernel for these takes longer without than the copy does. In bf16 it
    always is. What is copied is one row of numbers, which then gets its shape: a matrix with the
    layout of a transpose XLA would convert to float32 before a product in bf16.
    """
    copied = x.ndim > 2 or x.shape[-1] >= like.shape[-1] or x.dtype != jnp.float32
    flipped = jnp.swapaxes(x, -1, -2)
    if not copied or jax.default_backend() != "cpu":
        return flipped
    return lax.optimization_barrier(flipped.ravel()).reshape(flipped.shape)


def product(x: Array, y: Array, dtype: jnp.dtype) -> Array:
    """Matrix product over the last two axes, operands in `dtype`, sums in float32."""
    return matmul(x.astype(dtype), y.astype(dtype))


def attention_scores(q: Array, k: Array, dtype: jnp.dtype) -> Array:
    """`q k^T` over the last two axes, as `product`."""
    return matmul_transposed(q.astype(dtype), k.astype(dtype))


def project(x: Array, weight: Array, dtype: jnp.dtype) -> Array:
    """Contracts the last axis of `x` [B, L, D] with `weight` [D, ...].

    Flattened to a plain matrix product: with more axes XLA's CPU backend spends three times as
    long on the gradient.
    """
    batch, length, width = x.shape
    flat = product(x.reshape(batch * length, width), weight.reshape(width, -1), dtype)
    return flat.reshape(batch, length, *weight.shape[1:])


Kernel = Literal["xla", "cudnn"]  # of jax.nn.dot_product_attention
SinCos = tuple[Array, Array]  # sines and cosines, each [B, L, 1, H]


def rotary(positions: Array, slots: int, head_dim: int, theta: float) -> SinCos:
    """Sines and cosines of rotary positions [B, L], all below `slots`.

    Looked up in a table: sines of the positions themselves XLA would draw into each of their many
    uses, and a small model would spend a third of an update there.
    """
    half = head_dim // 2
    frequencies = theta ** (-(np.arange(head_dim) % half) / half)
    angles = np.arange(slots)[:, None] * frequencies
    look = lambda table: jnp.asarray(table, jnp.float32).at[positions].get(mode="promise_in_bounds")
    return look(np.sin(angles))[:, :, None], look(np.cos(angles))[:, :, None]


def rotate(x: Array, angles: SinCos) -> Array:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864, eq. 34) on [B, L, N, H]."""
    sines, cosines = angles
    half = x.shape[-1] // 2
    crossed = jnp.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    return x * cosines + crossed * sines


def narrow(x: Array, window: tuple[int, int] | None) -> Array:
    """The positions `[start, stop)` of `x` [B, L, ...], or all."""
    return x if window is None else x[:, window[0] : window[1]]


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> nnx.Param:
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32))


class RMSNorm(nnx.Module):
    """x / rms(x) * scale (Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4)."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))

    def __call__(self, x: Array) -> Array:
        inverse = lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        return x * inverse * self.scale[...][None, None, :]


def mix(
    q: Array, seen: Sequence[tuple[Array, Array]], biases: Sequence[Array], dtype: jnp.dtype
) -> Array:
    """Softmax attention of queries [B, L, N, H] over what is seen, [B, L, N, H].

    Args:
      seen: keys and values [B, K, S, H], in parts: those of a cache stay where they are. Were new
        ones written among them first, XLA would copy the cache for each of its readers.
      biases: [B, L, S] of each part, added to the scores.
    """
    b, length, n, h = q.shape
    groups = seen[0][0].shape[1]
    q = q.reshape(b, length, groups, -1, h).transpose(0, 2, 3, 1, 4)  # [B, K, G, L, H]
    q = q.reshape(b, groups, -1, h) * h**-0.5
    scores = [
        attention_scores(q, k, dtype).reshape(b, n, length, -1) + bias[:, None]
        for (k, _), bias in zip(seen, biases)
    ]
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1)
    ends = np.cumsum([bias.shape[-1] for bias in biases])[:-1]
    parts = jnp.split(weights.reshape(b, groups, n // groups * length, -1), ends, axis=-1)
    mixed = functools.reduce(
        jnp.add, [product(part, v, dtype) for part, (_, v) in zip(parts, seen)]
    )
    return mixed.reshape(b, n, length, h).swapaxes(1, 2)


def fused(q: Array, k: Array, v: Array, bias: Array, dtype: jnp.dtype, kernel: Kernel) -> Array:
    """`mix` of queries [B, L, N, H] over [B, S, K, H] by a kernel of `jax.nn`, [B, L, N, H].

    Raises:
      ConfigError: the kernel is another device's.
    """
    if kernel == "cudnn" and jax.default_backend() != "gpu":
        raise ConfigError("model.attention", kernel, "needs an NVIDIA GPU; use own or xla")
    length = q.shape[1]
    even = lambda x, *axes: jnp.pad(  # cuDNN's gradient takes no odd length
        x, [(0, x.shape[axis] % 2 if axis in axes else 0) for axis in range(x.ndim)]
    )
    q, k, v = (even(x.astype(dtype), 1) for x in (q, k, v))
    seen = even(bias == 0, 1, 2)[:, None]
    mixed = jax.nn.dot_product_attention(q, k, v, mask=seen, implementation=kernel)
    return mixed[:, :length].astype(jnp.float32)


class Attention(nnx.Module):
    """Causal attention in which groups of query heads share a key and value head.

    With a `window`, queries are those of its positions alone.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        d, n, k = config.width, config.heads, config.kv_heads
        h = d // n
        self.dtype, self.attention = jnp.dtype(config.dtype), config.attention
        self.query_dnh = normal(rngs, (d, n, h), d**-0.5)
        self.key_dkh = normal(rngs, (d, k, h), d**-0.5)
        self.value_dkh = normal(rngs, (d, k, h), d**-0.5)
        self.out_nhd = normal(rngs, (n, h, d), (2 * config.layers * d) ** -0.5)

    def __call__(self, x, angles, biases, cache, window):
        asking = narrow(x, window)
        asked_angles = narrow(angles[0], window), narrow(angles[1], window)
        q = rotate(project(asking, self.query_dnh[...], self.dtype), asked_angles)
        k = rotate(project(x, self.key_dkh[...], self.dtype), angles)
        v = project(x, self.value_dkh[...], self.dtype)
        biases = [narrow(bias, window) for bias in biases]
        mixed, kept = self.mixed(q, k, v, biases, cache)
        n, h = q.shape[2:]
        out = self.out_nhd[...].reshape(n * h, -1)
        return project(mixed.reshape(*asking.shape[:2], n * h), out, self.dtype), kept

    def mixed(self, q, k, v, biases, cache):
        """The values mixed, [B, L, N, H], and the cache with the new ones."""
        if cache is None and self.attention != "own":
            kernel = cast(Kernel, self.attention)
            return fused(q, k, v, biases[0], self.dtype, kernel), None
        k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)  # [B, K, L, H]
        if cache is None:
            return mix(q, [(k, v)], biases, self.dtype), None
        keys, values, at = cache
        kept = write(keys, k, at, axis=2), write(values, v, at, axis=2)  # [B, K, S, H]
        return mix(q, [(keys, values), (k, v)], biases, self.dtype), kept


class FeedForward(nnx.Module):
    """SwiGLU (Shazeer 2020, arXiv:2002.05202, eq. 6)."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        d, f = config.width, config.ff_width
        self.dtype = jnp.dtype(config.dtype)
        self.gate_df = normal(rngs, (d, f), d**-0.5)
        self.up_df = normal(rngs, (d, f), d**-0.5)
        self.down_fd = normal(rngs, (f, d), (2 * config.layers * f) ** -0.5)

    def __call__(self, x: Array) -> Array:
        gate = jax.nn.silu(project(x, self.gate_df[...], self.dtype))
        up = project(x, self.up_df[...], self.dtype)
        return project(gate * up, self.down_fd[...], self.dtype)


class Block(nnx.Module):
    """Pre-norm attention and feed-forward, each added to the residual stream.

    With a `window`, at its positions alone; they still attend to those before it.
    """

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.attention_norm, self.ff_norm = RMSNorm(config.width), RMSNorm(config.width)
        self.attention, self.ff = Attention(config, rngs), FeedForward(config, rngs)

    def __call__(self, x, angles, biases, cache, window):
        mixed, kv = self.attention(self.attention_norm(x), angles, biases, cache, window)
        x = narrow(x, window) + mixed
        return x + self.ff(self.ff_norm(x)), kv
