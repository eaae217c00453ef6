"""Decoder-only transformer: RMSNorm, rotary positions, grouped-query attention, SwiGLU."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from rlhf_jax.config import ModelConfig
from rlhf_jax.models.cache import KVCache, init_cache, write
from rlhf_jax.models.functional import Model, from_nnx
from rlhf_jax.types import Array, record

# Small, so that a tied head does not start by predicting its input, which is scaled back.
EMBEDDING_STD = 0.1
NEGATIVE = -1e9  # an additive mask; finite, so a row with nothing to attend to stays finite


@record
class ModelOutput:
    """What a forward pass gives for the positions asked for."""

    logits: Array  # [B, L, V] float32
    hidden: Array  # [B, L, D] float32, after the final norm
    cache: KVCache | None


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


class Transformer(nnx.Module):
    """The language model; see `make_transformer` for its calling convention."""

    def __init__(self, config: ModelConfig, vocab_size: int, rngs: nnx.Rngs):
        d = config.width
        self.dtype, self.tied = jnp.dtype(config.dtype), config.tied
        self.embedding_vd = normal(rngs, (vocab_size, d), EMBEDDING_STD)
        self.names = tuple(f"block_{i}" for i in range(config.layers))
        for name in self.names:
            setattr(self, name, Block(config, rngs))
        self.final_norm = RMSNorm(d)
        if not config.tied:
            self.head_vd = normal(rngs, (vocab_size, d), d**-0.5)

    def __call__(
        self,
        tokens: Array,
        mask: Array,
        *,
        cache: KVCache | None = None,
        window: tuple[int, int] | None = None,
    ) -> ModelOutput:
        positions, bias, seen = attend(mask, cache)
        x = self.embedding_vd[...][tokens] / EMBEDDING_STD
        pairs = []
        for i, name in enumerate(self.names):
            kv = None if cache is None else (cache.keys[i], cache.values[i], cache.length)
            x, pair = getattr(self, name)(x, positions, bias, kv)
            pairs.append(pair)
        x = x if window is None else x[:, window[0] : window[1]]
        hidden = self.final_norm(x)
        head = self.embedding_vd if self.tied else self.head_vd
        logits = project(hidden, head[...].T, self.dtype)
        if cache is not None:
            keys, values = zip(*pairs)
            cache = KVCache(
                keys=keys, values=values, mask=seen, length=cache.length + mask.shape[1]
            )
        return ModelOutput(logits=logits, hidden=hidden, cache=cache)


def attend(mask: Array, cache: KVCache | None) -> tuple[Array, Array, Array]:
    """Positions [B, L], additive attention bias [B, L, S] and the mask of slots [B, S]."""
    length = mask.shape[1]
    if cache is None:
        seen, start, before = mask, jnp.zeros((), jnp.int32), jnp.zeros_like(mask[:, :1], jnp.int32)
    else:
        seen, start = write(cache.mask, mask, cache.length, axis=1), cache.length
        before = jnp.sum(cache.mask, axis=1, keepdims=True, dtype=jnp.int32)
    counts = jnp.cumsum(mask, axis=1, dtype=jnp.int32)
    positions = before + jnp.maximum(counts - 1, 0)
    queries = start + jnp.arange(length, dtype=jnp.int32)
    causal = jnp.arange(seen.shape[1], dtype=jnp.int32)[None, :] <= queries[:, None]
    bias = jnp.where(causal[None] & seen[:, None, :], 0.0, NEGATIVE).astype(jnp.float32)
    return positions, bias, seen


def make_transformer(config: ModelConfig, vocab_size: int) -> Model:
    """The language model as `init(key)` and `apply(params, tokens, mask, *, cache, window)`.

    `tokens` [B, L] int32 and `mask` [B, L] (True on real tokens; padding on any side) give a
    `ModelOutput`; its row `i` predicts token `i + 1`. `window=(start, stop)` narrows the output to
    those positions before the output head. With a `cache`, `tokens` continue what it holds and
    the returned output carries the longer cache.

    >>> model = make_transformer(ModelConfig(layers=1, width=8, heads=2, kv_heads=1), vocab_size=5)
    >>> params = model.init(jax.random.key(0))
    >>> tokens = jnp.array([[1, 2, 3]])
    >>> model.apply(params, tokens, tokens > 0).logits.shape
    (1, 3, 5)
    """
    return from_nnx(lambda rngs: Transformer(config, vocab_size, rngs))


def empty_cache(config: ModelConfig, batch: int, slots: int) -> KVCache:
    """A cache that fits the model of `config`."""
    head_dim = config.width // config.heads
    shape = {"layers": config.layers, "kv_heads": config.kv_heads, "head_dim": head_dim}
    return init_cache(batch, slots, **shape)
