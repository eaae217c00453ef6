"""One instance of a listed task: prompts, source and rewards, all from the number it has."""

from __future__ import annotations

import zlib
from typing import NamedTuple

import numpy as np

from rlhf_jax.config import ConfigError, EnumerableConfig, VariableLengthConfig
from rlhf_jax.tasks.enumerable.rewards import REWARDS, SCALED
from rlhf_jax.tasks.enumerable.source import Source, draw_source
from rlhf_jax.tasks.tree import Tree

FROZEN = 8  # instances 0 to 7 are those of the report card; any other number is a new one
MOST = 200_000  # completions of all prompts together


class Instance(NamedTuple):
    """What an instance number decides. P prompts of k letters, S completions each."""

    tree: Tree
    prompts: np.ndarray  # [P, k] int32, all different
    source: Source
    gold: np.ndarray  # [P, S] float64


def make_instance(config: EnumerableConfig) -> Instance:
    """Draws the instance of a config.

    Raises:
        ConfigError: more completions than can be listed, or more prompts than there are.
    """
    tree = Tree(config.letters, config.length, config.ends)
    check(config, tree)
    seeds = np.random.SeedSequence([zlib.crc32(config.name.encode()), config.instance]).spawn(3)
    on_prompts, on_source, on_rewards = map(np.random.default_rng, seeds)
    prompts = draw_prompts(config, tree, on_prompts)
    stop = config.stop if isinstance(config, VariableLengthConfig) else 0.0
    source = draw_source(tree, len(prompts), config.concentration, stop, on_source)
    gold = REWARDS[config.name](tree, prompts, on_rewards)
    if config.name in SCALED:
        gold = standardized(gold, source.log_probs(tree, prompts))
    return Instance(tree, prompts, source, config.reward_sd * gold)


def standardized(gold: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
    """Mean 0 for each prompt, and a mean variance of 1 over prompts, under the source."""
    probs = np.exp(log_probs)
    centred = gold - (probs * gold).sum(axis=1, keepdims=True)
    return centred / np.sqrt((probs * centred**2).sum(axis=1).mean())


def draw_prompts(config: EnumerableConfig, tree: Tree, rng: np.random.Generator) -> np.ndarray:
    """Different prompts [P, k], in the order of their letters."""
    if config.name == "verifiable":  # a kind of problem and two letters
        kinds = np.arange(config.num_prompts) % 3
        pairs = rng.permutation(tree.width**2)[: config.num_prompts]
        letters = np.stack([kinds, pairs // tree.width, pairs % tree.width], axis=1)
        return (tree.first + letters).astype(np.int32)
    length = prompt_length(config)
    chosen = np.sort(rng.permutation(tree.width**length)[: config.num_prompts])
    return tree.prefixes(length)[chosen]


def prompt_length(config: EnumerableConfig) -> int:
    """Letters of a prompt: as few as give each prompt its own."""
    if config.name == "verifiable":
        return 3
    length = 1
    while config.letters**length < config.num_prompts:
        length += 1
    return length


def check(config: EnumerableConfig, tree: Tree) -> None:
    """Raises ConfigError for what cannot be listed."""
    if config.letters < 2 or (config.name == "verifiable" and config.letters < 3):
        least = 3 if config.name == "verifiable" else 2
        raise ConfigError("task.letters", config.letters, f"at least {least}")
    if config.name in ("token_tree", "repetition", "verifiable") and config.length < 2:
        raise ConfigError("task.length", config.length, f"at least 2 for {config.name}")
    most = config.letters**2 if config.name == "verifiable" else None
    if most and config.num_prompts > most:
        accepted = f"at most {most}, the pairs of task.letters={config.letters} letters"
        raise ConfigError("task.num_prompts", config.num_prompts, accepted)
    if tree.size * config.num_prompts > MOST:
        accepted = (
            f"{tree.size} completions of {config.num_prompts} prompts are too many to list (at "
            f"most {MOST} together); use a smaller task.length, task.letters or task.num_prompts"
        )
        raise ConfigError("task.length", config.length, accepted)
