"""Log-probabilities, values and gaps of listed completions beside brute force in numpy."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import (
    BanditConfig,
    ConfigError,
    ModelConfig,
    RepetitionConfig,
    SamplingConfig,
    TokenTreeConfig,
    VariableLengthConfig,
    VerifiableConfig,
)
from rlhf_jax.exact import optimum
from rlhf_jax.exact.policy import (
    prefix_values,
    sequence_log_probs,
    soft_values,
    step_log_probs,
)
from rlhf_jax.exact.quantities import gaps, measure
from rlhf_jax.models.transformer import make_language_model
from rlhf_jax.rollout.text import completion_log_probs
from rlhf_jax.sampling.decode import generate
from rlhf_jax.tasks import make_task
from rlhf_jax.train.exactly import every_completion

MODEL = ModelConfig(layers=1, width=8, heads=2, kv_heads=1, ff_width=16, context=16)
SMALL = [
    TokenTreeConfig(letters=3, length=3, num_prompts=4, num_texts=64, num_pairs=16),
    VariableLengthConfig(letters=2, length=4, num_prompts=3, num_texts=64, num_pairs=16),
    BanditConfig(num_texts=64, num_pairs=16),
]
BETA = 0.7


class Case:
    """A small task with a model, walked down its tree."""

    def __init__(self, config):
        self.task = make_task(config)
        self.exact = self.task.exact
        self.tree = self.exact.tree
        codec = self.task.codec
        self.model = make_language_model(MODEL, codec.vocab_size, codec.special, ends=codec.ends)
        self.sampling = SamplingConfig(max_length=config.length, temperature=0.8)
        sharper = lambda x: 2.0 * x
        self.policy, self.reference = (
            jax.tree.map(sharper, jax.jit(self.model.init)(jax.random.key(i))) for i in (0, 1)
        )
        self.prompts = jax.tree.map(jnp.asarray, self.exact.prompts)
        self.walk = jax.jit(lambda params: step_log_probs(*self.args(params), **self.settings))

    @property
    def settings(self):
        return {"config": MODEL, "sampling": self.sampling}

    def args(self, params):
        return self.model, params, self.tree, self.prompts

    def listed(self, params):
        return sequence_log_probs(self.tree, self.walk(params))


@pytest.fixture(scope="module", params=SMALL, ids=lambda config: config.name)
def case(request):
    return Case(request.param)


def test_completions_are_listed_once_and_found_again(case):
    tokens, mask = case.tree.tokens(), case.tree.mask()
    assert len({tuple(row) for row in tokens.tolist()}) == len(tokens) == case.tree.size
    np.testing.assert_array_equal(case.tree.index(jnp.asarray(tokens)), np.arange(case.tree.size))
    ended = (tokens == 2).any(axis=1)
    assert (mask.sum(axis=1) == case.tree.length)[~ended].all()
    assert ended.any() == case.tree.ends
    behind = np.where(mask, tokens, 7)  # what stands after an end is not read
    np.testing.assert_array_equal(case.tree.index(jnp.asarray(behind)), np.arange(case.tree.size))


def test_the_walk_is_the_full_forward_pass(case):
    rollout = every_completion(case.exact)
    full = jax.jit(completion_log_probs, static_argnums=(0, 3))
    log_probs, _ = full(case.model, case.policy, rollout, case.sampling)
    expected = np.where(rollout.completion_mask, log_probs, 0.0).sum(axis=1)
    found = np.asarray(case.listed(case.policy))
    np.testing.assert_allclose(found.ravel(), expected, atol=2e-5)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1.0, atol=1e-5)
    hot = dataclasses.replace(case.sampling, temperature=1.0)
    other, _ = full(case.model, case.policy, rollout, hot)  # a lost temperature would show
    assert np.abs(np.where(rollout.completion_mask, other, 0.0).sum(axis=1) - expected).max() > 0.1


def test_samples_follow_the_listed_probabilities(case):
    count = 3000
    prompts = jax.tree.map(lambda x: jnp.repeat(x[:1], count, axis=0), case.prompts)
    draw = jax.jit(
        lambda params, key: generate(
            case.model,
            params,
            prompts,
            key,
            **case.settings,
            special=case.task.codec.special,
        )
    )
    rollout = draw(case.policy, jax.random.key(5))
    found = np.bincount(case.tree.index(rollout.completion_tokens), minlength=case.tree.size)
    expected = count * np.exp(np.asarray(case.listed(case.policy)[0], np.float64))
    often = expected > 5
    chi_square = ((found - expected)[often] ** 2 / expected[often]).sum()
    assert chi_square < often.sum() + 5 * np.sqrt(2 * often.sum())
    wrong = np.roll(expected, 1)
    assert ((found - wrong)[wrong > 5] ** 2 / wrong[wrong > 5]).sum() > 10 * chi_square


def test_values_of_prefixes_are_means_over_what_follows(case):
    levels, tree = case.walk(case.policy), case.tree
    worth = jnp.asarray(case.exact.gold)
    values = prefix_values(tree, levels, worth)
    probs, tokens = np.exp(np.asarray(case.listed(case.policy), np.float64)), tree.tokens()
    for depth in range(tree.length):
        for number, prefix in enumerate(tree.prefixes(depth)):
            below = (tokens[:, :depth] == prefix).all(axis=1)
            if tree.ends and depth:  # a text that ended has no such prefix
                below &= (tokens[:, depth - 1] >= tree.first) if depth else True
            share = probs[:, below]
            expected = (share * case.exact.gold[:, below]).sum(axis=1) / share.sum(axis=1)
            np.testing.assert_allclose(values[depth][:, number], expected, atol=1e-4)
    assert len(values) == tree.length


def test_costs_of_steps_are_paid_along_the_way(case):
    levels, ref = case.walk(case.policy), case.walk(case.reference)
    cost = [BETA * (a - b) for a, b in zip(levels, ref)]
    values = prefix_values(case.tree, levels, jnp.asarray(case.exact.gold), cost)
    log_probs, listed = case.listed(case.policy), case.listed(case.reference)
    reward = optimum.mean_reward(log_probs, jnp.asarray(case.exact.gold))
    expected = reward - BETA * optimum.divergence(log_probs, listed)
    np.testing.assert_allclose(jnp.mean(values[0]), expected, atol=1e-4)


def test_soft_dynamic_programming_is_the_tilt(case):
    ref, rewards = case.listed(case.reference), jnp.asarray(case.exact.gold)
    levels = case.walk(case.reference)
    soft = soft_values(case.tree, levels, rewards, BETA)
    log_z = optimum.log_partition(ref, rewards, BETA)
    np.testing.assert_allclose(soft[0][:, 0], BETA * log_z, atol=1e-5)
    assert np.abs(soft[0][:, 0] - prefix_values(case.tree, levels, rewards)[0][:, 0]).max() > 1e-2
    # Step by step the optimum is ref e^((V* - V*) / beta): its log-probs add up to the tilt's.
    first = soft[1] if case.tree.length > 1 else rewards.reshape(*soft[0].shape[:1], -1)
    step = levels[0][..., : case.tree.width].reshape(first.shape)
    steps = step + (first.reshape(step.shape) - soft[0]) / BETA
    tokens, tilted = case.tree.tokens(), np.exp(optimum.tilt(ref, rewards, BETA))
    starts = [
        tilted[:, tokens[:, 0] == case.tree.first + i].sum(axis=1) for i in range(case.tree.width)
    ]
    np.testing.assert_allclose(np.exp(steps), np.stack(starts, axis=1), atol=1e-4)


def brute_force(log_p, log_q, r, beta):
    """The same numbers by loops over prompts, in float64."""
    p, q, r = np.exp(np.float64(log_p)), np.exp(np.float64(log_q)), np.float64(r)
    z = (q * np.exp(r / beta)).sum(axis=1)
    star = q * np.exp(r / beta) / z[:, None]
    kl = lambda a, b: np.mean([sum(x * np.log(x / y) for x, y in zip(u, v)) for u, v in zip(a, b)])
    reward = np.mean((p * r).sum(axis=1))
    gap = np.mean(beta * np.log(z)) - (reward - beta * kl(p, q))
    shift = np.log(p / q)
    centred = lambda x: x - (p * x).sum(axis=1, keepdims=True)
    cov = np.mean((p * centred(r) * centred(shift)).sum(axis=1))
    variances = [np.mean((p * centred(x) ** 2).sum(axis=1)) for x in (r, shift)]
    return {
        "exact/reward": reward,
        "exact/kl": kl(p, q),
        "exact/entropy": -np.mean((p * np.log(p)).sum(axis=1)),
        "exact/gap": gap,
        "exact/gap_share": gap / (np.mean(beta * np.log(z)) - np.mean((q * r).sum(axis=1))),
        "exact/kl_to_optimum": kl(p, star),
        "exact/objective": reward - beta * kl(p, q),
        "exact/beta_eff": variances[0] / cov,
        "exact/beta_r2": cov**2 / variances[0] / variances[1],
    }


def test_quantities_are_those_of_brute_force(float64):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(2, 3, 11)) * 1.5
    p, q = (np.asarray(jax.nn.log_softmax(jnp.asarray(x))) for x in logits)
    r = rng.normal(size=(3, 11))
    found = measure(*map(jnp.asarray, (p, q, r))) | gaps(*map(jnp.asarray, (p, q, r)), BETA)
    for name, expected in brute_force(p, q, r, BETA).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-9, err_msg=name)
    wrong = brute_force(q, p, r, BETA)  # the control: the KL has a direction
    assert abs(float(found["exact/kl"]) - wrong["exact/kl"]) > 0.05


def test_the_envelope_is_the_best_of_many_policies(float64):
    rng = np.random.default_rng(1)
    q = jax.nn.log_softmax(jnp.asarray(rng.normal(size=(2, 6))))
    r = jnp.asarray(rng.normal(size=(2, 6)))
    for scale in (0.3, 1.0, 3.0):
        for policy in jax.nn.log_softmax(scale * jnp.asarray(rng.normal(size=(50, 2, 6)))):
            found = measure(policy, q, r)
            assert float(found["exact/above_envelope"]) < 1e-9
            assert float(found["exact/kl_efficiency"]) <= 1 + 1e-9
    on_it = measure(optimum.tilt(q, r, 0.4), q, r)
    assert float(on_it["exact/kl_efficiency"]) == pytest.approx(1.0, abs=1e-9)
    # The control: a point that no policy can have is seen.
    kl = optimum.divergence(policy, q)
    best = optimum.mean_reward(optimum.at_kl(q, r, kl), r)
    assert float(best) > float(optimum.mean_reward(policy, r))
    # Chances that add up to more than 1, where every reward is large: no policy earns so much.
    too_good = measure(optimum.tilt(q, r, 0.4) + 0.05, q, r + 10.0)
    assert float(too_good["exact/above_envelope"]) > 1e-3
    assert float(optimum.divergence(optimum.at_kl(q, r, kl), q)) == pytest.approx(float(kl), 1e-9)


def test_best_of_n_is_the_distribution_of_the_best(float64):
    q = jnp.log(jnp.array([[0.1, 0.2, 0.3, 0.4]]))
    r = jnp.array([[1.0, 3.0, 1.0, 2.0]])  # two completions of equal reward share as q does
    for n in (1, 2, 3):
        expected = np.zeros(4)
        for drawn in itertools.product(range(4), repeat=n):
            best = max(float(r[0, i]) for i in drawn)
            ties = [i for i in drawn if float(r[0, i]) == best]
            chance = np.prod([float(jnp.exp(q[0, i])) for i in drawn])
            for i in ties:
                expected[i] += chance / len(ties)
        np.testing.assert_allclose(jnp.exp(optimum.best_of_n(q, r, n))[0], expected, rtol=1e-9)


@pytest.mark.parametrize(
    "config",
    [TokenTreeConfig, BanditConfig, VariableLengthConfig, RepetitionConfig, VerifiableConfig],
)
def test_instances_are_frozen_and_differ(config):
    few = {"num_texts": 16, "num_pairs": 16}
    first, again, other = (make_task(config(instance=i, **few)) for i in (0, 0, 9))
    np.testing.assert_array_equal(first.exact.gold, again.exact.gold)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()
    texts = every_completion(first.exact)
    scores = np.asarray(first.gold(texts.tokens(), texts.mask()))
    np.testing.assert_allclose(scores.reshape(first.exact.gold.shape), first.exact.gold, rtol=1e-6)


def test_what_cannot_be_listed_is_refused():
    with pytest.raises(ConfigError, match=r"task.length=12: .* too many to list"):
        make_task(TokenTreeConfig(length=12))
