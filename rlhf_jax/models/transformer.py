"""Decoder-only transformer, and its upper layers alone for a value function that owns them."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
from flax import nnx

from rlhf_jax.config import ModelConfig
from rlhf_jax.models.blocks import Block, RMSNorm, SinCos, narrow, normal, project, rotary
from rlhf_jax.models.cache import KVCache, init_cache, write
from rlhf_jax.models.functional import Model, from_nnx, traced_once
from rlhf_jax.types import Array, Params, SpecialTokens, record

NEGATIVE = -1e9  # an additive mask; finite, so a row with nothing to attend to stays finite


@record
class ModelOutput:
    """What a forward pass gives for the positions asked for."""

    logits: Array  # [B, L, V] float32
    hidden: Array  # [B, L, D] float32, after the final norm
    cache: KVCache | None
    tapped: Array | None = None  # [B, L up to the window's end, D] float32, what entered the block


def block_names(layers: int) -> tuple[str, ...]:
    """Keys of the blocks in the trunk's parameters, bottom first."""
    return tuple(f"block_{i}" for i in range(layers))


class Transformer(nnx.Module):
    """The language model; see `make_transformer` for its calling convention."""

    def __init__(self, config: ModelConfig, vocab_size: int, rngs: nnx.Rngs):
        d = config.width
        self.config, self.dtype, self.tied = config, jnp.dtype(config.dtype), config.tied
        # Small, so that a tied head does not start by predicting its input, which is scaled back.
        self.std = config.embedding_std
        self.embedding_vd = normal(rngs, (vocab_size, d), self.std)
        self.names = block_names(config.layers)
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
        tap: int | None = None,
    ) -> ModelOutput:
        if cache is None:
            tokens, mask = narrow(tokens, sight(window)), narrow(mask, sight(window))
        angles, biases = attend(self.config, mask, cache)
        x = self.embedding_vd[...][tokens] / self.std
        pairs, tapped = [], None
        for i, name in enumerate(self.names):
            tapped = x if i == tap else tapped
            kv = None if cache is None else (cache.keys[i], cache.values[i], cache.length)
            asked = window if name == self.names[-1] else None
            x, pair = traced_once(getattr(self, name), x, angles, biases, kv, static=(asked,))
            pairs.append(pair)
        hidden = self.final_norm(x)
        head = self.embedding_vd if self.tied else self.head_vd
        logits = project(hidden, head[...].T, self.dtype)
        if cache is not None:
            keys, values = zip(*pairs)
            held = write(cache.mask, mask, cache.length, axis=1)
            after = cache.length + mask.shape[1]
            cache = KVCache(keys=keys, values=values, mask=held, length=after)
        return ModelOutput(logits=logits, hidden=hidden, cache=cache, tapped=tapped)


class Top(nnx.Module):
    """The last blocks and the final norm alone, under the names they have in the trunk."""

    def __init__(self, config: ModelConfig, layers: int, rngs: nnx.Rngs):
        self.config, self.names = config, block_names(config.layers)[-layers:]
        for name in self.names:
            setattr(self, name, Block(config, rngs))
        self.final_norm = RMSNorm(config.width)

    def __call__(self, x: Array, mask: Array, window: tuple[int, int] | None) -> Array:
        angles, biases = attend(self.config, narrow(mask, sight(window)), None)
        for name in self.names:
            asked = window if name == self.names[-1] else None
            x, _ = traced_once(getattr(self, name), x, angles, biases, None, static=(asked,))
        return self.final_norm(x)


def sight(window: tuple[int, int] | None) -> tuple[int, int] | None:
    """What the positions of a window can see: nothing after its end."""
    return None if window is None else (0, window[1])


def attend(
    config: ModelConfig, mask: Array, cache: KVCache | None
) -> tuple[SinCos, tuple[Array, ...]]:
    """Rotary angles of [B, L], and the additive attention biases of what can be seen.

    These are of the slots of the cache, [B, L, S], if there is one, and of the tokens, [B, L, L].
    """
    length = mask.shape[1]
    counts = jnp.cumsum(mask, axis=1, dtype=jnp.int32)
    positions, slots = jnp.maximum(counts - 1, 0), length
    at = jnp.arange(length)
    causal = at[None, :] <= at[:, None]
    biases = (as_bias(causal[None] & mask[:, None, :]),)
    if cache is not None:
        positions += jnp.sum(cache.mask, axis=1, keepdims=True, dtype=jnp.int32)
        slots = cache.mask.shape[1]
        before = jnp.broadcast_to(cache.mask[:, None, :], (mask.shape[0], length, slots))
        biases = (as_bias(before), *biases)
    angles = rotary(positions, slots, config.width // config.heads, config.rope_theta)
    return angles, biases


def as_bias(seen: Array) -> Array:
    """What is added to the scores: 0 where it is seen."""
    return jnp.where(seen, 0.0, NEGATIVE).astype(jnp.float32)


def make_transformer(config: ModelConfig, vocab_size: int) -> Model:
    """The language model as `init(key)` and `apply(params, tokens, mask, *, cache, window, tap)`.

    `tokens` [B, L] int32 and `mask` [B, L] (True on real tokens; padding on any side) give a
    `ModelOutput`; its row `i` predicts token `i + 1`. `window=(start, stop)` narrows the output to
    those positions before the output head. With a `cache`, `tokens` continue what it holds and
    the returned output carries the longer cache. With `tap=i` the output also carries what
    entered block `i`; `top(params, tapped, mask, *, layers, window)` runs other copies of the last
    `layers` blocks and the final norm on it, to hidden states.

    >>> import jax
    >>> model = make_transformer(ModelConfig(layers=1, width=8, heads=2, kv_heads=1), vocab_size=5)
    >>> params = model.init(jax.random.key(0))
    >>> tokens = jnp.array([[1, 2, 3]])
    >>> model.apply(params, tokens, tokens > 0).logits.shape
    (1, 3, 5)
    """
    trunk = from_nnx(lambda rngs: Transformer(config, vocab_size, rngs))
    part = functools.cache(lambda layers: from_nnx(lambda rngs: Top(config, layers, rngs)))

    def top(
        params: Params,
        tapped: Array,
        mask: Array,
        *,
        layers: int,
        window: tuple[int, int] | None = None,
    ) -> Array:
        return part(layers).apply(params, tapped, mask, window)

    return trunk._replace(top=top)


def make_language_model(
    config: ModelConfig, vocab_size: int, special: SpecialTokens, *, ends: bool = True
) -> Model:
    """The transformer as a distribution over texts: padding and BOS have no probability.

    Nor has EOS where `ends` is False: texts of a fixed length.

    They are never drawn and never a target. If they had probability a policy could move its own
    there unseen: what lowers all drawn tokens raises them, and the log-probabilities of the texts
    that are drawn would fall without end.

    >>> config = ModelConfig(layers=1, width=8, heads=2, kv_heads=1)
    >>> model = make_language_model(config, 5, SpecialTokens(pad=0, bos=1, eos=2))
    >>> tokens = jnp.array([[1, 3, 4]])
    >>> import jax
    >>> logits = model.apply(model.init(jax.random.key(0)), tokens, tokens > 0).logits
    >>> jax.nn.softmax(logits)[0, 0, :2].tolist()
    [0.0, 0.0]
    """
    inner = make_transformer(config, vocab_size)

    def apply(*args: Any, **kwargs: Any) -> ModelOutput:
        output = inner.apply(*args, **kwargs)
        ids = jnp.arange(vocab_size)
        unsaid = (ids == special.pad) | (ids == special.bos) | ((ids == special.eos) & (not ends))
        logits = jnp.where(unsaid[None, None], NEGATIVE, output.logits)
        return dataclasses.replace(output, logits=logits)

    return inner._replace(apply=apply, eos=special.eos, bos=special.bos)


def empty_cache(config: ModelConfig, batch: int, slots: int) -> KVCache:
    """A cache that fits the model of `config`."""
    head_dim = config.width // config.heads
    shape = {"layers": config.layers, "kv_heads": config.kv_heads, "head_dim": head_dim}
    return init_cache(batch, slots, **shape)
