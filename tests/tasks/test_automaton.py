import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import AutomatonConfig, ConfigError
from rlhf_jax.tasks.automaton import make_automaton
from rlhf_jax.tasks.automaton.instance import LETTERS, make_instance
from rlhf_jax.tasks.automaton.walk import read
from rlhf_jax.tasks.reviews.annotator import preference_probs
from rlhf_jax.tasks.tokens import BOS, PAD

SMALL = AutomatonConfig(num_texts=600, num_pairs=3000, order=2)


@pytest.fixture(scope="module")
def task():
    return make_automaton(SMALL)


def _digest(config):
    """A hash of all that an instance decides, rounded to what every machine agrees on."""
    grammar, machine, walk = make_instance(config)
    parts = (grammar.probs, grammar.next_state, machine.reward, machine.next_state, walk.prompts)
    rounded = [np.round(part.astype(np.float64), 5) + 0.0 for part in parts]
    return hashlib.sha256(b"".join(part.tobytes() for part in rounded)).hexdigest()[:16]


def test_instances_are_frozen():
    found = {i: _digest(AutomatonConfig(instance=i)) for i in (0, 7)}
    assert found == {0: "0c4cbd66a7ac8726", 7: "6921039056098cab"}


def test_instances_differ_and_the_deviation_changes_rewards_alone():
    assert len({_digest(AutomatonConfig(instance=i)) for i in (*range(9), 10**6)}) == 10
    one, two = (make_instance(AutomatonConfig(reward_sd=sd)) for sd in (1.0, 2.0))
    np.testing.assert_array_equal(one.grammar.probs, two.grammar.probs)
    np.testing.assert_array_equal(one.machine.next_state, two.machine.next_state)
    np.testing.assert_allclose(2 * one.machine.reward, two.machine.reward, rtol=1e-6)


def _leaves(task):
    kinds = (task.train_text, task.heldout_text, task.train_pairs, task.heldout_pairs)
    return jax.tree.leaves((*kinds, task.train_prompts, task.eval_prompts))


def test_arrays_are_numpy_of_the_promised_kinds(task):
    assert {leaf.dtype.name for leaf in _leaves(task)} == {"int32", "bool", "float32"}
    assert all(isinstance(leaf, np.ndarray) for leaf in _leaves(task))
    assert task.train_text.tokens.shape == (600, 1 + 2 + 32)
    assert task.train_pairs.chosen.tokens.shape == (3000, 35)
    assert task.train_prompts.tokens.shape == (8, 3) and task.eval_prompts.tokens.shape[0] == 1024


def test_texts_are_bos_and_letters_without_an_end(task):
    for texts in (task.train_text, task.heldout_text, task.train_pairs.chosen):
        assert (texts.tokens[:, 0] == BOS).all() and (texts.tokens[:, 1:] > 2).all()
        assert texts.mask.all()
    known = {tuple(row) for row in task.train_prompts.tokens}
    assert len(known) == 8
    assert {tuple(row[:3]) for row in task.train_text.tokens} == known
    assert {tuple(row) for row in task.eval_prompts.tokens} == known
    assert not task.codec.ends and task.codec.vocab_size == 19
    row = task.train_text.tokens[0]
    assert task.codec.encode(task.codec.decode(row)) == row[1:].tolist()


def test_both_texts_of_a_pair_begin_with_its_prompt_and_the_better_is_likelier_first(task):
    pairs, walk = task.train_pairs, make_instance(SMALL).walk
    assert (pairs.prompt_length == 3).all()
    np.testing.assert_array_equal(pairs.chosen.tokens[:, :3], pairs.rejected.tokens[:, :3])
    assert (pairs.chosen.tokens != pairs.rejected.tokens).any(axis=1).all()
    better, worse = (read(walk, x.tokens, 3).reward for x in (pairs.chosen, pairs.rejected))
    chance = preference_probs(better, worse, 1.0, 0.0)
    right = np.maximum(chance, 1 - chance)
    error = np.sqrt((right * (1 - right)).sum()) / len(right)
    assert abs((better > worse).mean() - right.mean()) < 4 * error
    assert task.facts["bayes_pair_accuracy"] == pytest.approx(right.mean(), abs=0.02)


def _paid(instance, tokens):
    """Reward of one text by a loop over the machine's table."""
    state, total = 0, 0.0
    for token in tokens:
        total += float(instance.machine.reward[state, token])
        state = instance.machine.next_state[state, token]
    return total


def test_gold_is_the_automaton_with_padding_on_either_side(task):
    instance, gold = make_instance(SMALL), jax.jit(task.gold)
    score = lambda tokens, mask: np.asarray(gold(jnp.asarray(tokens), jnp.asarray(mask)))
    tokens = task.heldout_text.tokens[:64]
    expected = [_paid(instance, row) for row in tokens]
    assert np.std(expected) > 0.5
    for side in ((0, 0), (0, 5), (4, 0), (2, 3)):
        padded = np.pad(tokens, ((0, 0), side))
        np.testing.assert_allclose(score(padded, padded != PAD), expected, atol=1e-5)
        noise = np.where(padded == PAD, 7, padded)  # what stands under the mask is not read
        np.testing.assert_allclose(score(noise, padded != PAD), expected, atol=1e-5)
        if sum(side):
            assert np.abs(score(noise, noise > 0) - expected).max() > 0.1
    np.testing.assert_allclose(read(instance.walk, tokens, 3).reward, expected, atol=1e-12)
    prompts = task.train_prompts
    assert (score(prompts.tokens, prompts.mask) == 0).all()
    assert score(tokens, tokens != PAD).dtype == np.float32


def test_data_follow_the_chain(task):
    walk = make_instance(SMALL).walk
    texts = read(walk, make_automaton(SMALL).heldout_text.tokens, 3)
    error = texts.log_prob.std() / np.sqrt(len(texts.log_prob))
    assert abs(texts.log_prob.mean() + task.facts["entropy_per_text"]) < 4 * error
    whole = np.log(8) + task.facts["entropy_per_text"]
    assert task.facts["entropy_per_token"] == pytest.approx(whole / 34)
    assert abs(texts.reward.mean()) < 4 * texts.reward.std() / 32
    assert texts.reward.std() == pytest.approx(1, abs=0.15)


def test_facts_tell_the_optimum(task):
    for beta in ("1", "0.3", "0.1"):
        value, reward, kl = (
            task.facts[f"optimal_{name}_beta_{beta}"] for name in ("value", "reward", "kl")
        )
        assert value == pytest.approx(reward - float(beta) * kl) and value > 0 and kl > 0


def test_the_same_seed_gives_the_same_task_and_another_does_not(task):
    again, other = (make_automaton(dataclasses.replace(SMALL, data_seed=s)) for s in (0, 1))
    assert task.fingerprint() == again.fingerprint() != other.fingerprint()
    np.testing.assert_array_equal(task.train_prompts.tokens, other.train_prompts.tokens)


def test_more_prompts_than_beginnings_are_refused():
    with pytest.raises(ConfigError, match=r"task.num_prompts=17: at most 16"):
        make_instance(AutomatonConfig(num_prompts=17))
    assert len(make_instance(AutomatonConfig(num_prompts=16)).walk.starts) == 16


def test_there_are_names_for_all_letters():
    assert len(set(LETTERS)) == len(LETTERS) == 64
