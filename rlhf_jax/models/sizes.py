"""Parameter counts by arithmetic, and a separate value network that costs none more."""

from __future__ import annotations

import dataclasses

from rlhf_jax.config import ConfigError, ModelConfig


def trunk_size(config: ModelConfig, vocab_size: int) -> int:
    """Number of parameters of the language model of `config`.

    `E V D + L (2 D + 2 D^2 + 2 D K H + 3 D F) + D`, with E = 1 embedding where it is tied to the
    head and 2 where not, L layers of width D, K key and value heads of size H, and F the width of
    the feed-forward layers.

    Args:
        config: sizes; only these are read.
        vocab_size: V, tokens.

    >>> trunk_size(ModelConfig(layers=1, width=8, heads=2, kv_heads=1, ff_width=10), vocab_size=5)
    496
    """
    d, keys = config.width, config.kv_heads * (config.width // config.heads)
    block = 2 * d + 2 * d * d + 2 * d * keys + 3 * d * config.ff_width
    embeddings = 1 if config.tied else 2
    return embeddings * vocab_size * d + config.layers * block + d


def scored_size(config: ModelConfig, vocab_size: int) -> int:
    """Number of parameters of a trunk with its scalar head."""
    return trunk_size(config, vocab_size) + config.width + 1


def shrunk(config: ModelConfig, width: int) -> ModelConfig:
    """The network at another width, its feed-forward layers in proportion."""
    ff_width = max(1, round(config.ff_width * width / config.width))
    return dataclasses.replace(config, width=width, ff_width=ff_width)


def matched(config: ModelConfig, vocab_size: int) -> ModelConfig:
    """The network of which two, each with a head, have the parameters of one of `config`.

    `2 (trunk' + head')` comes as close to `trunk + head` as the width of the feed-forward layers
    allows, so within `3 L D'`, half of what one unit of it costs in both. The width is the largest
    multiple of twice the heads at which the feed-forward layers may keep their share; they then
    take what is left. Everything else is as in `config`.

    Apply it once: what it returns describes one network of the pair.

    Args:
        config: the shared arrangement that is to be matched.
        vocab_size: tokens.

    Raises:
        ConfigError: no width is small enough.

    >>> small = matched(ModelConfig(), vocab_size=103)
    >>> small.width, small.ff_width
    (40, 161)
    >>> 2 * scored_size(small, 103), scored_size(ModelConfig(), 103)
    (105202, 105281)
    """
    target, step = scored_size(config, vocab_size), 2 * config.heads
    for width in range(config.width // step * step, 0, -step):
        if 2 * scored_size(shrunk(config, width), vocab_size) <= target:
            break
    else:
        accepted = f"model.width={config.width} is too small for two networks of half the size"
        raise ConfigError("model.value_head", "separate_matched", accepted)
    rest = dataclasses.replace(config, width=width, ff_width=0)
    unit = 2 * config.layers * 3 * width
    ff_width = round((target - 2 * scored_size(rest, vocab_size)) / unit)
    return dataclasses.replace(config, width=width, ff_width=ff_width)


def as_built(config: ModelConfig, vocab_size: int) -> ModelConfig:
    """The network that is really built: `separate_matched` makes two smaller ones."""
    return matched(config, vocab_size) if config.value_head == "separate_matched" else config
