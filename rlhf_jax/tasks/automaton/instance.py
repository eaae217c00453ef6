"""One instance of the task: chain, prompts and reward automaton, all from the number it has."""

from __future__ import annotations

import string
from typing import NamedTuple

import numpy as np

from rlhf_jax.config import AutomatonConfig, ConfigError
from rlhf_jax.tasks.automaton.horizon import tilt_horizon
from rlhf_jax.tasks.automaton.walk import Walk, make_walk
from rlhf_jax.tasks.reviews.grammar import FINISHED, START, Grammar
from rlhf_jax.tasks.reviews.machines import Machine
from rlhf_jax.tasks.tokens import BOS, PAD, SPECIALS

TASK = 6  # of the suite; with the instance's number the seed of everything
FROZEN = 8  # instances 0 to 7 are those of the report card; any other number is a new one
LETTERS = string.ascii_lowercase + string.ascii_uppercase + string.digits + "+-"
FIRST = len(SPECIALS)  # id of the first letter
FLOOR = 1e-4  # share of each row that is uniform, so that the reference excludes no letter


class Instance(NamedTuple):
    """What an instance number decides."""

    grammar: Grammar  # the chain: BOS, a prompt, letters without end
    machine: Machine  # pays for letters after the prompt
    walk: Walk  # both together


def make_instance(config: AutomatonConfig) -> Instance:
    """Draws the instance of a config; of two that differ in `reward_sd` only rewards differ.

    The mean reward of a text is 0 and its variance `reward_sd`^2 under the chain, both as means
    over the prompts.

    Raises:
        ConfigError: more prompts than there are.

    >>> found = make_instance(AutomatonConfig(letters=3, length=4, num_prompts=2, states=2))
    >>> found.grammar.words, found.walk.prompts.tolist()
    (('<pad>', '<bos>', '<eos>', 'a', 'b', 'c'), [[1, 3], [1, 5]])
    """
    seeds = np.random.SeedSequence([TASK, config.instance]).spawn(3)
    on_chain, on_prompts, on_machine = map(np.random.default_rng, seeds)
    starts = _draw_starts(config, on_prompts)
    grammar = _chain(starts, _draw_rows(config, on_chain))
    machine = _draw_machine(config, on_machine)
    bos = np.full((len(starts), 1), BOS)
    prompts = np.concatenate([bos, starts + FIRST], axis=1).astype(np.int32)
    machine = _scaled(machine, make_walk(grammar, [machine], prompts, config.length), config)
    return Instance(grammar, machine, make_walk(grammar, [machine], prompts, config.length))


def _draw_starts(config: AutomatonConfig, rng: np.random.Generator) -> np.ndarray:
    """Different beginnings [K, order], in the order of their letters."""
    most = config.letters**config.order
    if config.num_prompts > most:
        raise ConfigError("task.num_prompts", config.num_prompts, f"at most {most} are different")
    codes = np.sort(rng.permutation(most)[: config.num_prompts])
    return np.stack(np.unravel_index(codes, [config.letters] * config.order), axis=1)


def _draw_rows(config: AutomatonConfig, rng: np.random.Generator) -> np.ndarray:
    """p(letter | the `order` letters before), [V^order, V], each row from a Dirichlet."""
    alpha = np.full(config.letters, config.concentration)
    rows = rng.dirichlet(alpha, config.letters**config.order)
    return (1 - FLOOR) * rows + FLOOR / config.letters


def _chain(starts: np.ndarray, rows: np.ndarray) -> Grammar:
    """BOS, one of the beginnings [K, n], all alike likely, then letters by rows [V^n, V].

    A state knows the letters read so far, at most the last n; its number is `offset[how many]`
    and the number that they spell to the base V.
    """
    order, width = starts.shape[1], rows.shape[1]
    offset = FINISHED + 1 + np.cumsum([0] + [width**i for i in range(order)])
    probs = np.zeros((offset[-1] + len(rows), FIRST + width))
    next_state = np.full(probs.shape, -1, np.int32)
    probs[START, BOS], next_state[START, BOS] = 1, offset[0]
    probs[FINISHED, PAD], next_state[FINISHED, PAD] = 1, FINISHED
    for start in starts:
        code = 0
        for i, letter in enumerate(start):
            here, code = offset[i] + code, code * width + letter
            probs[here, FIRST + letter] += 1
            next_state[here, FIRST + letter] = offset[i + 1] + code
    probs[offset[-1] :, FIRST:] = rows
    contexts = np.arange(rows.size).reshape(rows.shape) % len(rows)  # the last n letters
    next_state[offset[-1] :, FIRST:] = offset[-1] + contexts
    unused = probs.sum(axis=1) == 0  # knows letters that begin no prompt
    probs[unused, PAD], next_state[unused, PAD] = 1, FINISHED
    words = (*SPECIALS, *LETTERS[:width])
    return Grammar(words, probs / probs.sum(axis=1, keepdims=True), next_state)


def _draw_machine(config: AutomatonConfig, rng: np.random.Generator) -> Machine:
    """Random moves and normal rewards.

    The first `order` states read the prompt and pay nothing; its last letter decides where
    the others begin. Special tokens move nothing.
    """
    order, states, width = config.order, config.states, config.letters
    moves, enter = rng.integers(states, size=(states, width)), rng.integers(states, size=width)
    reward = np.zeros((order + states, FIRST + width))
    reward[order:, FIRST:] = rng.standard_normal((states, width))
    next_state = np.repeat(np.arange(order + states)[:, None], FIRST + width, axis=1)
    next_state[: order - 1, FIRST:] += 1
    next_state[order - 1, FIRST:] = order + enter
    next_state[order:, FIRST:] = order + moves
    return Machine(next_state.astype(np.int32), reward.astype(np.float32))


def _scaled(machine: Machine, walk: Walk, config: AutomatonConfig) -> Machine:
    """The machine with the mean and variance of a text's reward as promised."""
    solved = tilt_horizon(walk, 0.0)
    mean, variance = (x[0, walk.starts].mean() for x in (solved.reward, solved.variance))
    factor = config.reward_sd / np.sqrt(variance)
    reward = np.zeros(machine.reward.shape)
    own = np.s_[config.order :, FIRST:]
    reward[own] = (machine.reward[own] - mean / config.length) * factor
    return machine._replace(reward=reward.astype(np.float32))
