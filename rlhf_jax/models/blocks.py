"""Parts of the transformer: rotary positions, RMSNorm, grouped-query attention, SwiGLU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from rlhf_jax.config import ModelConfig
from rlhf_jax.models.cache import write
from rlhf_jax.types import Array


def product(x: Array, y: Array, dtype: jnp.dtype) -> Array:
    """Matrix product over the last two axes, operands in `dtype`, sums in float32."""
    return jnp.matmul(x.astype(dtype), y.astype(dtype), preferred_element_type=jnp.float32)


def project(x: Array, weight: Array, dtype: jnp.dtype) -> Array:
    """Contracts the last axis of `x` [B, L, D] with `weight` [D, ...].

    Flattened to a plain matrix product: with more axes XLA's CPU backend spends three times as
    long on the gradient.
    """
    batch, length, width = x.shape
    flat = product(x.reshape(batch * length, width), weight.reshape(width, -1), dtype)
    return flat.reshape(batch, length, *weight.shape[1:])


def rotate(x: Array, positions: Array, theta: float) -> Array:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864, eq. 34) on [B, L, N, H]."""
    half = x.shape[-1] // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angles = positions.astype(jnp.float32)[:, :, None, None] * frequencies[None, None, None, :]
    sin, cos = jnp.sin(angles), jnp.cos(angles)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def normal(rngs: nnx.Rngs, shape: tuple[int, ...], std: float) -> nnx.Param:
    return nnx.Param(std * jax.random.normal(rngs.params(), shape, jnp.float32))


class RMSNorm(nnx.Module):
    """x / rms(x) * scale (Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4)."""

    def __init__(self, width: int):
        self.scale = nnx.Param(jnp.ones((width,), jnp.float32))

    def __call__(self, x: Array) -> Array:
        inverse = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        return x * inverse * self.scale[...][None, None, :]


class Attention(nnx.Module):
    """Causal attention in which groups of query heads share a key and value head."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        d, n, k = config.width, config.heads, config.kv_heads
        h = d // n
        self.theta, self.dtype = config.rope_theta, jnp.dtype(config.dtype)
        self.query_dnh = normal(rngs, (d, n, h), d**-0.5)
        self.key_dkh = normal(rngs, (d, k, h), d**-0.5)
        self.value_dkh = normal(rngs, (d, k, h), d**-0.5)
        self.out_nhd = normal(rngs, (n, h, d), (2 * config.layers * d) ** -0.5)

    def __call__(self, x, positions, bias, cache):
        q = rotate(project(x, self.query_dnh[...], self.dtype), positions, self.theta)
        k = rotate(project(x, self.key_dkh[...], self.dtype), positions, self.theta)
        v = project(x, self.value_dkh[...], self.dtype)
        k, v = jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)  # [B, K, L, H]
        if cache is not None:
            keys, values, at = cache
            k, v = write(keys, k, at, axis=2), write(values, v, at, axis=2)  # [B, K, S, H]
        b, length, n, h = q.shape
        groups = k.shape[1]
        q = q.reshape(b, length, groups, -1, h).transpose(0, 2, 3, 1, 4)  # [B, K, G, L, H]
        q = q.reshape(b, groups, -1, h) * h**-0.5
        scores = product(q, jnp.swapaxes(k, 2, 3), self.dtype)  # [B, K, G * L, S]
        scores = scores.reshape(b, n, length, -1) + bias[:, None]
        weights = jax.nn.softmax(scores, axis=-1).reshape(b, groups, -1, k.shape[2])
        mixed = product(weights, v, self.dtype).reshape(b, n, length, h).swapaxes(1, 2)
        out = self.out_nhd[...].reshape(n * h, -1)
        return project(mixed.reshape(b, length, n * h), out, self.dtype), (k, v)


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
    """Pre-norm attention and feed-forward, each added to the residual stream."""

    def __init__(self, config: ModelConfig, rngs: nnx.Rngs):
        self.attention_norm, self.ff_norm = RMSNorm(config.width), RMSNorm(config.width)
        self.attention, self.ff = Attention(config, rngs), FeedForward(config, rngs)

    def __call__(self, x, positions, bias, cache):
        mixed, kv = self.attention(self.attention_norm(x), positions, bias, cache)
        x = x + mixed
        return x + self.ff(self.ff_norm(x)), kv
