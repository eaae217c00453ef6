"""A listed task as an ordinary one: texts, pairs and prompts as arrays, rewards in the program."""

from __future__ import annotations

import dataclasses
import string

import jax.numpy as jnp
import numpy as np

from rlhf_jax.config import EnumerableConfig, RepetitionConfig
from rlhf_jax.tasks.enumerable.instance import Instance, make_instance
from rlhf_jax.tasks.enumerable.proxies import learned, noisy
from rlhf_jax.tasks.enumerable.source import draw
from rlhf_jax.tasks.protocol import Enumerable, Task, TextCodec
from rlhf_jax.tasks.reviews.annotator import as_sequences, bayes_accuracy, preference_probs
from rlhf_jax.tasks.reviews.vocabulary import make_codec
from rlhf_jax.tasks.tokens import BOS, PAD, SPECIALS
from rlhf_jax.tasks.tree import Tree
from rlhf_jax.types import Array, PairBatch, ScoreFn, Sequences

HELDOUT = 1024  # texts, and pairs


def make_enumerable(config: EnumerableConfig) -> Task:
    """A task whose completions can all be listed, so that its optimum is known.

    The instance (prompts, source of the texts, rewards) follows from `config.name` and
    `config.instance`, the data drawn from it from `config.data_seed`.

    Facts: `entropy_per_text` and `entropy_per_token` of the source, `bayes_pair_accuracy`.

    Raises:
        ConfigError: a setting that cannot work, by its key.

    >>> from rlhf_jax.config import BanditConfig
    >>> task = make_enumerable(BanditConfig())
    >>> task.exact.tree.size, task.train_prompts.tokens.shape
    (8, (4, 2))
    """
    instance = make_instance(config)
    tree, prompts = instance.tree, instance.prompts
    seeds = np.random.SeedSequence(config.data_seed).spawn(5)
    streams = map(np.random.default_rng, seeds)
    on_texts, on_heldout, on_pairs, on_heldout_pairs, on_labels = streams
    log_probs = instance.source.log_probs(tree, prompts)
    heads = prompt_rows(prompts)
    train_pairs, _, _ = draw_pairs(config, instance, log_probs, config.num_pairs, on_pairs)
    heldout_pairs, _, bayes = draw_pairs(config, instance, log_probs, HELDOUT, on_heldout_pairs)
    return Task(
        name=config.name,
        codec=letter_codec(tree),
        train_text=as_sequences(draw_texts(instance, log_probs, config.num_texts, on_texts)),
        heldout_text=as_sequences(draw_texts(instance, log_probs, HELDOUT, on_heldout)),
        train_pairs=train_pairs,
        heldout_pairs=heldout_pairs,
        train_prompts=heads,
        eval_prompts=repeated(heads, HELDOUT),
        gold=table_score(tree, prompts, instance.gold),
        rewards=proxies(config, instance, log_probs, on_labels),
        exact=Enumerable(
            tree=tree,
            prompts=heads,
            gold=instance.gold.astype(np.float32),
            source=log_probs.astype(np.float32),
            number=config.instance,
        ),
        facts=facts(tree, prompts, log_probs) | {"bayes_pair_accuracy": bayes},
    )


def letter_codec(tree: Tree) -> TextCodec:
    """Letters by their names; without ends EOS is never drawn."""
    names = string.ascii_lowercase[: tree.width]
    return make_codec([*SPECIALS, *names])._replace(ends=tree.ends)


def prompt_rows(prompts: np.ndarray) -> Sequences:
    """BOS and the letters of each prompt."""
    bos = np.full((len(prompts), 1), BOS, np.int32)
    return as_sequences(np.concatenate([bos, prompts], axis=1).astype(np.int32))


def repeated(rows: Sequences, most: int) -> Sequences:
    """All rows as often as fits into `most` rows."""
    times = max(most // len(rows.tokens), 1)
    return as_sequences(np.tile(np.asarray(rows.tokens), (times, 1)))


def draw_texts(
    instance: Instance, log_probs: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Texts of the source, as many of each prompt, in random order."""
    each = -(-count // len(instance.prompts))
    completions = draw(log_probs, each, rng)  # [P, each]
    prompt = np.repeat(np.arange(len(completions)), each)
    return rng.permutation(whole(instance, prompt, completions.ravel()))[:count]


def draw_pairs(
    config: EnumerableConfig,
    instance: Instance,
    log_probs: np.ndarray,
    count: int,
    rng: np.random.Generator,
) -> tuple[PairBatch, tuple[np.ndarray, np.ndarray, np.ndarray], float]:
    """Pairs, (better, worse, prompt) as numbers [N] each, and the best possible accuracy.

    With `task.labels=sampled` an annotator draws which is the better one; with `exact` the better
    one is always first, beside the chance that the annotator would say so.
    """
    width = len(instance.prompts)
    sides = draw(log_probs, 2 * -(-count // width), rng)  # [P, 2 n]
    first, second = np.split(sides, 2, axis=1)
    prompt = np.broadcast_to(np.arange(width)[:, None], first.shape)
    order = rng.permutation(first.size)[:count]
    a, b, prompt = (x.reshape(-1)[order] for x in (first, second, prompt))
    gold = instance.gold[prompt, a], instance.gold[prompt, b]
    chance = preference_probs(*gold, config.annotator_temperature, config.flip_rate)
    exact = config.labels == "exact"
    first_wins = chance >= 0.5 if exact else rng.random(len(a)) < chance
    better, worse = np.where(first_wins, a, b), np.where(first_wins, b, a)
    confidence = np.where(first_wins, chance, 1 - chance).astype(np.float32) if exact else None
    rows = lambda y: as_sequences(whole(instance, prompt, y))
    pairs = PairBatch(
        chosen=rows(better),
        rejected=rows(worse),
        margin=np.zeros(len(a), np.float32),  # pyright: ignore[reportArgumentType]
        prompt_length=np.full(len(a), 1 + instance.prompts.shape[1], np.int32),  # pyright: ignore
        confidence=confidence,  # pyright: ignore[reportArgumentType]
    )
    return pairs, (better, worse, prompt), 1.0 if exact else bayes_accuracy(chance)


def whole(instance: Instance, prompt: np.ndarray, completion: np.ndarray) -> np.ndarray:
    """BOS, prompt and completion by their numbers, [N, L]."""
    heads = np.asarray(prompt_rows(instance.prompts).tokens)[prompt]
    return np.concatenate([heads, instance.tree.tokens()[completion]], axis=1)


def table_score(tree: Tree, prompts: np.ndarray, table: np.ndarray) -> ScoreFn:
    """Rewards [P, S] looked up by prompt and completion; texts start with BOS and a prompt."""
    rewards, find = jnp.asarray(table, jnp.float32), prompt_finder(tree, prompts)
    width = 1 + prompts.shape[1]

    def score(tokens: Array, mask: Array) -> Array:
        tokens = jnp.where(mask, tokens, PAD)
        completion = tokens[:, width : width + tree.length]
        return rewards[find(tokens[:, 1:width]), tree.index(completion)]

    return score


def prompt_finder(tree: Tree, prompts: np.ndarray):
    """`(tokens [B, k]) -> numbers [B]` of the prompts; that of the first for a prompt not known."""
    length = prompts.shape[1]
    powers = tree.width ** np.arange(length - 1, -1, -1)
    known = np.zeros(tree.width**length, np.int32)
    known[(prompts - tree.first) @ powers] = np.arange(len(prompts))
    powers = jnp.asarray(powers, jnp.int32)
    lookup = jnp.asarray(known)
    return lambda tokens: lookup[jnp.sum((tokens - tree.first) * powers[None], axis=1)]


def proxies(
    config: EnumerableConfig,
    instance: Instance,
    log_probs: np.ndarray,
    on_labels: np.random.Generator,
) -> dict[str, ScoreFn]:
    """Rewards other than the truth, by the name they are asked for with `task.reward`."""
    if not isinstance(config, RepetitionConfig):
        return {}
    rng = np.random.default_rng([config.data_seed, 1])
    sampled = dataclasses.replace(config, labels="sampled")  # an annotator's, as fits have them
    _, labels, _ = draw_pairs(sampled, instance, log_probs, config.num_pairs, on_labels)
    better, worse, prompt = labels
    score = lambda table: table_score(instance.tree, instance.prompts, table)
    fit = lambda kind: learned(instance.tree, kind, better, worse, prompt, len(instance.prompts))
    found = {kind: score(fit(kind)) for kind in ("counts", "presence")}
    return found | {k: score(noisy(instance.gold, k, rng)) for k in ("gaussian", "heavy_tail")}


def facts(tree: Tree, prompts: np.ndarray, log_probs: np.ndarray) -> dict[str, float]:
    """Entropy of the source: nats a completion, and nats a predicted token of a whole text."""
    probs = np.exp(log_probs)
    entropy = float(-(probs * log_probs).sum(axis=1).mean())
    length = float((probs * tree.mask().sum(axis=1)).sum(axis=1).mean())
    whole = (np.log(len(prompts)) + entropy) / (prompts.shape[1] + length)
    return {"entropy_per_text": entropy, "entropy_per_token": float(whole)}
