"""PPO on a tiny model: the first step, the advantages, and that it learns what it is paid for."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import split_dynamic
from rlhf_jax.rollout.text import completion_log_probs
from rlhf_jax.train import policy_gradient
from rlhf_jax.train.experience import make_experience
from rlhf_jax.train.policy_loss import minibatch_loss
from rlhf_jax.train.scores import score_texts
from rlhf_jax.types import SpecialTokens, TextRollout

PAD, BOS, EOS, TARGET = 0, 1, 2, 5
SPECIAL = SpecialTokens(pad=PAD, bos=BOS, eos=EOS)
KEY = jax.random.key(0)


def score(frozen, rollout):
    """How often the completion says token 5, times a sign kept among the frozen parameters."""
    said = (rollout.completion_tokens == TARGET) & rollout.completion_mask
    return frozen.reward["sign"] * jnp.sum(said, axis=1, dtype=jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 1))
def experience_of(model, config, state, rollout, scores, reference):
    """What is learnt from a rollout whose completions got these scores."""
    scored = score_texts(config.algo, rollout, scores, SPECIAL)
    return make_experience(model, config, state, scored, reference)[0]


def numbers(hparams):
    """Hyperparameters as arrays, so that single runs and lanes share their types."""
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(type(x))), hparams)


@pytest.fixture(scope="module")
def frozen(tiny_frozen):
    reward = {**tiny_frozen.reward, "sign": jnp.float32(1.0)}
    return dataclasses.replace(tiny_frozen, reward=reward)


@pytest.fixture(scope="module")
def static(tiny_config):
    return split_dynamic(tiny_config)[0]


@pytest.fixture(scope="module")
def hparams(tiny_config):
    return numbers(split_dynamic(tiny_config)[1])


@pytest.fixture(scope="module")
def steps(tiny_model, static):
    return policy_gradient.make_policy_gradient(tiny_model, static, special=SPECIAL, score=score)


@pytest.fixture(scope="module")
def step(steps):
    """The compiled train step of every test here; a second trace would fail."""
    return jax.jit(chex.assert_max_traces(steps.train_step, 1))


@pytest.fixture(scope="module")
def learn(steps):
    return jax.jit(steps.learn)


@pytest.fixture(scope="module")
def rollout(steps, start, tiny_prompts, hparams):
    return jax.jit(steps.collect)(start, tiny_prompts, hparams)


@pytest.fixture(scope="module")
def start(tiny_config, frozen):
    return policy_gradient.init(tiny_config, frozen, KEY)


def close(a, b, atol=1e-5):
    chex.assert_trees_all_close(a, b, atol=atol, rtol=1e-4)


def with_values(hparams, **algo):
    return hparams | {"algo": hparams["algo"] | {k: jnp.float32(v) for k, v in algo.items()}}


def test_the_first_update_starts_at_the_reference(step, start, tiny_prompts, frozen, hparams):
    _, metrics = step(start, tiny_prompts, frozen, hparams)
    assert float(metrics["val/ratio_first"]) == pytest.approx(1.0, abs=1e-5)
    assert float(metrics["objective/kl"]) == pytest.approx(0.0, abs=1e-5)
    assert float(metrics["objective/rlhf_reward"]) == pytest.approx(
        float(metrics["objective/scores"]), abs=1e-5
    )
    assert int(metrics["episode"]) == 8
    assert all(np.isfinite(float(x)) for x in metrics.values())


def test_a_step_is_collect_then_score_then_learn(
    step, steps, learn, rollout, start, tiny_prompts, frozen, hparams
):
    state, metrics = learn(start, rollout, steps.score(frozen, rollout), frozen, hparams)
    whole, expected = step(start, tiny_prompts, frozen, hparams)
    close((state.params, state.extra, metrics), (whole.params, whole.extra, expected))


def test_every_update_shuffles_its_minibatches_anew(learn, rollout, start, frozen, hparams):
    later = dataclasses.replace(start, update=start.update + 1)
    a, b = (learn(s, rollout, jnp.arange(8.0), frozen, hparams)[0] for s in (start, later))
    head = lambda state: np.asarray(state.params["value"]["head"]["weight_d"])
    assert np.abs(head(a) - head(b)).max() > 1e-6


def hand_made(static):
    """Two prompts and completions of 6 and 3 tokens."""
    completion = jnp.array([[5, 7, 5, 9, 4, 8], [3, 5, EOS, PAD, PAD, PAD]])
    mask = jnp.array([[True] * 6, [True] * 3 + [False] * 3])
    behavior = jnp.where(mask, -jnp.linspace(0.5, 3.0, 12).reshape(2, 6), 0.0)
    return TextRollout(
        prompt_tokens=jnp.array([[1, 6, 7], [0, 1, 8]]),
        prompt_mask=jnp.array([[True] * 3, [False, True, True]]),
        completion_tokens=completion,
        completion_mask=mask,
        behavior_log_probs=behavior,
    )


def loop_advantages(config, experience, reference, rollout, scores, kl_coef):
    """Rewards and generalized advantages, slot by slot in float64."""
    mask = np.asarray(rollout.completion_mask)
    behavior = np.asarray(rollout.behavior_log_probs, np.float64)
    values, reference = (np.asarray(x, np.float64) for x in (experience.values, reference))
    last_slot = config.algo.score_placement == "last_slot"
    advantages = np.zeros(mask.shape)
    for row, real in enumerate(mask):
        slots = mask.shape[1] if last_slot else real.sum()
        follow = next_value = 0.0
        for t in reversed(range(slots)):
            reward = -kl_coef * (behavior - reference)[row, t] if real[t] else 0.0
            reward += scores[row] if t == slots - 1 else 0.0
            discount = 0.0 if t == slots - 1 else config.algo.gamma if t + 1 < real.sum() else 1.0
            delta = reward + discount * next_value - values[row, t]
            follow = delta + discount * config.algo.gae_lambda * follow
            advantages[row, t], next_value = follow, values[row, t]
    return advantages


@pytest.fixture(scope="module")
def bigrams(bigram_model, bigram_frozen, tiny_config):
    """A model that compiles quickly, for what is around the network; its state and reference."""
    return (
        bigram_model,
        policy_gradient.init(tiny_config, bigram_frozen, KEY),
        # Another one, or there would be no KL.
        bigram_model.init(jax.random.key(9)),
    )


@pytest.mark.parametrize("placement", ["last_token", "last_slot"])
@pytest.mark.parametrize("whiten", ["none", "standardize"])
def test_advantages_and_returns_equal_a_loop(tiny_config, bigrams, placement, whiten):
    algo = dataclasses.replace(
        tiny_config.algo, score_placement=placement, whiten_advantages=whiten, gamma=0.9
    )
    config = dataclasses.replace(tiny_config, algo=algo)
    rollout, scores = hand_made(config), jnp.array([2.0, -1.0])
    model, start, params = bigrams
    experience = experience_of(model, config, start, rollout, scores, params)
    reference, _ = completion_log_probs(model, params, rollout, config.sampling)
    expected = loop_advantages(
        config, experience, reference, rollout, np.asarray(scores), algo.kl_coef
    )
    mask = np.asarray(rollout.completion_mask)
    returns = expected + np.asarray(experience.values)
    np.testing.assert_allclose(np.asarray(experience.returns)[mask], returns[mask], atol=1e-5)
    if whiten == "standardize":
        expected = (expected - expected[mask].mean()) / expected[mask].std()
    found = np.asarray(experience.advantages)
    np.testing.assert_allclose(found[mask], expected[mask], atol=1e-4)


@pytest.mark.parametrize("placement", ["last_token", "last_slot"])
def test_whitened_rewards_keep_the_score(tiny_config, bigrams, placement):
    algo = dataclasses.replace(
        tiny_config.algo, score_placement=placement, whiten_rewards="keep_mean"
    )
    config = dataclasses.replace(tiny_config, algo=algo)
    model, start, reference = bigrams
    args = (model, config, start, hand_made(config))
    high, low = (
        experience_of(*args, jnp.array([1.0, score]), reference).returns[1] for score in (4.0, -4.0)
    )
    assert float(jnp.min(jnp.abs(high - low)[:3])) > 0.1


def test_the_loss_adds_values_and_takes_entropy_away(tiny_config, bigrams, rollout):
    algo = dataclasses.replace(tiny_config.algo, vf_coef=0.5, entropy_coef=0.25)
    config = dataclasses.replace(tiny_config, algo=algo)
    model, start, reference = bigrams
    experience = experience_of(model, config, start, rollout, jnp.arange(8.0), reference)
    loss = jax.jit(minibatch_loss, static_argnums=(0, 1))
    total, metrics = loss(model, config, start.extra, start.params, experience)
    metrics = {k: float(v) for k, v in metrics.items()}
    expected = metrics["loss/policy_avg"] + 0.5 * metrics["loss/value_avg"]
    assert metrics["policy/entropy_avg"] > 0.5 and metrics["loss/value_avg"] > 0.01
    assert float(total) == pytest.approx(expected - 0.25 * metrics["policy/entropy_avg"], rel=1e-5)


def test_both_sources_of_behaviour_log_probs_agree(tiny_config, tiny_model, rollout, start, frozen):
    algo = dataclasses.replace(tiny_config.algo, behavior_log_probs="forward")
    config = dataclasses.replace(tiny_config, algo=algo)
    args = (start, rollout, jnp.zeros(8), frozen.reference)
    experience = experience_of(tiny_model, config, *args)
    close(experience.rollout.behavior_log_probs, rollout.behavior_log_probs)


def after_kl(config, state, kl):
    """The state after an update in which this KL was measured."""
    metrics = {"objective/kl": jnp.float32(kl), "objective/kl_token": jnp.float32(kl / 4)}
    return policy_gradient.after_update(None, config, state, None, metrics)


@pytest.mark.parametrize(
    "kl, moved",
    [(9.0, 1 + 0.2 * 8 / 1000), (6.6, 1 + 0.1 * 8 / 1000), (0.0, 1 - 0.2 * 8 / 1000), (6.0, 1.0)],
)
def test_the_kl_coefficient_moves_as_in_ziegler(tiny_config, start, kl, moved):
    after = after_kl(tiny_config, start, kl)
    assert float(after.extra["kl_coef"]) == pytest.approx(0.05 * moved, rel=1e-6)
    assert int(after.update) == 1


def test_the_kl_coefficient_stays_when_fixed_or_when_kl_is_not_a_number(tiny_config, start):
    algo = dataclasses.replace(tiny_config.algo, kl_controller="fixed")
    fixed = dataclasses.replace(tiny_config, algo=algo)
    for config, kl in ((fixed, 99.0), (tiny_config, jnp.nan)):
        after = after_kl(config, start, kl)
        assert float(after.extra["kl_coef"]) == pytest.approx(0.05)


def train(step, state, prompts, frozen, hparams, updates=30):
    scores = []
    for _ in range(updates):
        state, metrics = step(state, prompts, frozen, hparams)
        scores.append(float(metrics["objective/scores"]))
    return np.mean(np.abs(scores[:3])), np.mean(np.abs(scores[-5:]))


def test_it_learns_what_it_is_paid_for_and_a_negated_reward_does_not(
    step, start, tiny_prompts, frozen, hparams
):
    # 8 completions an update are few: a large learning rate and a cheap KL keep the test short.
    fast = with_values(hparams, kl_coef=0.01)
    fast["optim"] = fast["optim"] | {"learning_rate": jnp.float32(0.02)}
    before, after = train(step, start, tiny_prompts, frozen, fast)
    assert after > before + 1.0, (before, after)
    reward = {**frozen.reward, "sign": jnp.float32(-1.0)}
    negated = dataclasses.replace(frozen, reward=reward)
    _, control = train(step, start, tiny_prompts, negated, fast)
    assert control < before + 0.25, (before, control)


def test_lanes_with_other_numbers_seeds_and_left_padding_equal_solo_runs(
    step, steps, tiny_config, tiny_prompts, frozen, hparams
):
    keys = jnp.stack([KEY, jax.random.key(1)])
    starts = jax.vmap(lambda key: policy_gradient.init(tiny_config, frozen, key))(keys)
    lanes = [hparams, with_values(hparams, clip_eps=0.05, vf_coef=0.5)]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *lanes)
    together = jax.jit(jax.vmap(steps.train_step, in_axes=(0, None, None, 0)))
    # One compilation for two facts: the lanes' prompts also have three more columns of padding.
    wide = jax.tree.map(lambda x: jnp.pad(x, [(0, 0), (3, 0)]), tiny_prompts)
    found, metrics = together(starts, wide, frozen, stacked)
    for i, key in enumerate(keys):
        solo, expected = step(
            policy_gradient.init(tiny_config, frozen, key), tiny_prompts, frozen, lanes[i]
        )
        lane = jax.tree.map(lambda x, i=i: x[i], (found.params, metrics))
        close(lane, (solo.params, expected))
    entropies = metrics["policy/entropy_avg"]  # of what each lane has drawn: before any step
    assert float(entropies[0]) != float(entropies[1])


def test_new_numbers_do_not_trace_again(step, start, tiny_prompts, frozen, hparams):
    a, _ = step(start, tiny_prompts, frozen, hparams)  # a second trace raises: see `step`
    b, _ = step(start, tiny_prompts, frozen, with_values(hparams, clip_eps=0.01, gamma=0.5))
    assert step._cache_size() == 1
    assert any((x != y).any() for x, y in zip(jax.tree.leaves(a.params), jax.tree.leaves(b.params)))


def test_a_bad_score_is_skipped_and_counted(step, start, tiny_prompts, frozen, hparams):
    bad = dataclasses.replace(frozen, reward={**frozen.reward, "sign": jnp.float32(jnp.nan)})
    state, _ = step(start, tiny_prompts, bad, hparams)
    assert int(state.skipped) == int(state.skipped_in_a_row) == 4  # 2 epochs of 2 minibatches
    chex.assert_trees_all_equal(state.params, start.params)
    assert np.isfinite(float(state.extra["kl_coef"]))
