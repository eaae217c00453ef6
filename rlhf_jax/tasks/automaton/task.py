"""The automaton as an ordinary task: texts, pairs and prompts as arrays, reward in the program."""

from __future__ import annotations

import functools

import numpy as np

from rlhf_jax.config import AutomatonConfig
from rlhf_jax.tasks.automaton.horizon import reference_entropy, tilt_horizon
from rlhf_jax.tasks.automaton.instance import Instance, make_instance
from rlhf_jax.tasks.automaton.texts import policy_gap
from rlhf_jax.tasks.automaton.walk import Walk, read
from rlhf_jax.tasks.protocol import Task
from rlhf_jax.tasks.reviews import annotator, sampler
from rlhf_jax.tasks.reviews.gold import make_gold
from rlhf_jax.tasks.reviews.vocabulary import make_codec
from rlhf_jax.types import PairBatch, Sequences

HELDOUT = 1024  # texts, pairs, and about as many prompts
BETAS = (1.0, 0.3, 0.1)  # whose optimum is among the facts


def make_automaton(config: AutomatonConfig) -> Task:
    """Long texts of a random Markov chain, paid by a random automaton; texts have a fixed length.

    The instance (chain, prompts, rewards) follows from `config.instance`, the data drawn from it
    from `config.data_seed`; `make_instance(config).walk` knows its optimum.

    Facts: `entropy_per_text` (nats of a completion), `entropy_per_token` (of whole texts, prompts
    included: the least cross-entropy), `bayes_pair_accuracy`, and of the optimum for some beta
    `optimal_value_beta_1`, `optimal_reward_beta_1`, `optimal_kl_beta_1`.

    Raises:
        ConfigError: a setting that cannot work, by its key.

    >>> task = make_automaton(AutomatonConfig(num_texts=4, num_pairs=2))
    >>> task.train_text.tokens.shape, task.train_prompts.tokens.shape
    ((4, 34), (8, 2))
    >>> task.facts["optimal_kl_beta_1"] < task.facts["optimal_kl_beta_0.3"]
    True
    """
    instance = make_instance(config)
    seeds = np.random.SeedSequence(config.data_seed).spawn(4)
    texts, heldout, pairs, heldout_pairs = map(np.random.default_rng, seeds)
    train_pairs, _ = _pairs(config, instance, config.num_pairs, pairs)
    eval_pairs, bayes = _pairs(config, instance, HELDOUT, heldout_pairs)
    prompts = instance.walk.prompts
    return Task(
        name="automaton",
        codec=make_codec(instance.grammar.words)._replace(ends=False),
        train_text=_texts(instance, config.num_texts, texts),
        heldout_text=_texts(instance, HELDOUT, heldout),
        train_pairs=train_pairs,
        heldout_pairs=eval_pairs,
        train_prompts=annotator.as_sequences(prompts),
        eval_prompts=annotator.as_sequences(np.tile(prompts, (-(-HELDOUT // len(prompts)), 1))),
        gold=make_gold([instance.machine]),
        sampled_gap=functools.partial(_gap, instance.walk),
        facts={**_facts(instance.walk), "bayes_pair_accuracy": bayes},
    )


def _gap(walk: Walk, beta: float, texts: np.ndarray, log_probs: np.ndarray) -> dict[str, float]:
    """Distance to the optimum for a price `beta`, and one standard error of it."""
    found = policy_gap(walk, tilt_horizon(walk, 1 / beta), texts, log_probs, walk.prompts.shape[1])
    return {"exact/source_gap": found.gap, "exact/source_gap_error": found.error}


def _width(walk: Walk) -> int:
    return walk.prompts.shape[1] + walk.horizon


def _texts(instance: Instance, count: int, rng: np.random.Generator) -> Sequences:
    width = _width(instance.walk)
    return annotator.as_sequences(sampler.draw_texts(instance.grammar, count, width, rng))


def _pairs(
    config: AutomatonConfig, instance: Instance, count: int, rng: np.random.Generator
) -> tuple[PairBatch, float]:
    """Labelled pairs, and the accuracy of the best predictor on them."""
    walk, lengths = instance.walk, (config.order, config.order)
    a, b, sizes = annotator.draw_pairs(instance.grammar, count, lengths, _width(walk), rng)
    gold_a, gold_b = (read(walk, text, walk.prompts.shape[1]).reward for text in (a, b))
    temperature, flip_rate = config.annotator_temperature, config.flip_rate
    probs = annotator.preference_probs(gold_a, gold_b, temperature, flip_rate)
    return annotator.annotate(a, b, sizes, probs, rng), annotator.bayes_accuracy(probs)


def _facts(walk: Walk) -> dict[str, float]:
    count, order = len(walk.prompts), walk.prompts.shape[1] - 1
    entropy = float(reference_entropy(walk).mean())
    facts = {
        "entropy_per_text": entropy,
        "entropy_per_token": float((np.log(count) + entropy) / (order + walk.horizon)),
    }
    for beta in BETAS:
        solved = tilt_horizon(walk, 1 / beta)
        for name in ("value", "reward", "kl"):
            at_start = getattr(solved, name)[0, walk.starts]
            facts[f"optimal_{name}_beta_{beta:g}"] = float(at_start.mean())
    return facts
