"""Online DPO on a tiny model: which completion wins, the first step, and that it learns."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import OnlineDPOConfig, SamplingConfig, split_dynamic
from rlhf_jax.rollout.text import completion_log_probs
from rlhf_jax.train import one_step, online_dpo
from rlhf_jax.types import SpecialTokens

PAD, BOS, EOS, TARGET = 0, 1, 2, 5
SPECIAL = SpecialTokens(pad=PAD, bos=BOS, eos=EOS)
KEY = jax.random.key(0)


def score(frozen, rollout):
    """How often the completion says token 5, times a sign kept among the frozen parameters."""
    said = (rollout.completion_tokens == TARGET) & rollout.completion_mask
    return frozen.reward["sign"] * jnp.sum(said, axis=1, dtype=jnp.float32)


def numbers(hparams):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(type(x))), hparams)


@pytest.fixture(scope="module")
def frozen(tiny_frozen):
    reward = {**tiny_frozen.reward, "sign": jnp.float32(1.0)}
    return dataclasses.replace(tiny_frozen, reward=reward)


def with_algo(tiny_config, **algo):
    settings = {"updates": 30, "batch_size": 16, "beta": 0.5} | algo
    return dataclasses.replace(tiny_config, algo=OnlineDPOConfig(**settings))


@pytest.fixture(scope="module")
def config(tiny_config):
    return with_algo(tiny_config)


def make(model, config):
    static, hparams = split_dynamic(config)
    steps = online_dpo.make_online_dpo(model, static, special=SPECIAL, score=score)
    return steps, numbers(hparams)


@pytest.fixture(scope="module")
def steps(tiny_model, config):
    return make(tiny_model, config)[0]


@pytest.fixture(scope="module")
def hparams(tiny_model, config):
    return make(tiny_model, config)[1]


@pytest.fixture(scope="module")
def step(steps):
    return jax.jit(steps.train_step)


@pytest.fixture(scope="module")
def learn(steps):
    return jax.jit(steps.learn)


@pytest.fixture(scope="module")
def start(config, frozen):
    return one_step.init(config, frozen, KEY)


@pytest.fixture(scope="module")
def rollout(steps, start, tiny_prompts, hparams):
    return jax.jit(steps.collect)(start, tiny_prompts, hparams)


def test_the_first_update_starts_at_the_reference(step, start, tiny_prompts, frozen, hparams):
    state, metrics = step(start, tiny_prompts, frozen, hparams)
    found = {k: float(v) for k, v in metrics.items()}
    assert all(np.isfinite(x) for x in found.values())
    assert found["val/ratio_first"] == pytest.approx(1.0, abs=1e-5)
    assert found["val/ratio_first_error"] == pytest.approx(0.0, abs=1e-4)
    assert found["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    assert found["objective/rlhf_reward"] == pytest.approx(found["objective/scores"], abs=1e-4)
    assert 0.0 < found["val/tied_pairs"] < 1.0
    assert found["loss/policy_avg"] == pytest.approx(np.log(2), abs=1e-4)
    assert found["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    assert found["episode"] == 16 and int(state.update) == 1
    assert state.params.keys() == {"policy"}


@pytest.fixture(scope="module")
def learn_bigrams(bigram_model, bigram_frozen):
    """`learn_bigrams(config, rollout, scores)`: the metrics of a first update.

    By a model that compiles quickly, for what is around the network.
    """

    def update(config, rollout, scores):
        steps, hparams = make(bigram_model, config)
        start = one_step.init(config, bigram_frozen, KEY)
        return jax.jit(steps.learn)(start, rollout, scores, bigram_frozen, hparams)[1]

    return update


@pytest.mark.parametrize("loss, expected", [("ipo", 1.0), ("hinge", 1.0)])
def test_the_loss_asked_for_is_used(learn_bigrams, tiny_config, rollout, loss, expected):
    metrics = learn_bigrams(with_algo(tiny_config, loss=loss), rollout, jnp.arange(16.0))
    assert float(metrics["loss/policy_avg"]) == pytest.approx(expected, abs=1e-3)


@pytest.fixture(scope="module")
def moved(start):
    """A state whose policy is away from the reference, where rewards are more than rounding."""
    policy = jax.tree.map(lambda x: 1.1 * x, start.params["policy"])
    return dataclasses.replace(start, params={"policy": policy})


def test_a_step_is_collect_then_score_then_learn(
    step, steps, learn, moved, tiny_prompts, frozen, hparams
):
    rollout = jax.jit(steps.collect)(moved, tiny_prompts, hparams)
    found, metrics = learn(moved, rollout, steps.score(frozen, rollout), frozen, hparams)
    for _ in range(2):  # a pure function gives the same again
        whole, expected = step(moved, tiny_prompts, frozen, hparams)
        chex.assert_trees_all_close(
            (found.params, metrics), (whole.params, expected), atol=1e-4, rtol=1e-3
        )


def test_the_loss_is_the_same_without_compilation(config, bigram_model, bigram_frozen, rollout):
    ref_log_probs, _ = completion_log_probs(
        bigram_model, bigram_frozen.reference, rollout, config.sampling
    )
    loss = lambda *args: online_dpo.online_loss(bigram_model, config, *args)
    params = {"policy": bigram_frozen.reward["trunk"]}  # another model
    args = (params, rollout, jnp.arange(16.0), ref_log_probs)
    chex.assert_trees_all_close(loss(*args), jax.jit(loss)(*args), atol=1e-4, rtol=1e-3)


def test_both_completions_of_a_pair_answer_one_prompt(rollout, tiny_prompts):
    tokens = np.asarray(rollout.prompt_tokens)
    np.testing.assert_array_equal(tokens[0::2], tokens[1::2])
    wanted = sorted(np.asarray(tiny_prompts.tokens).tolist())
    assert sorted(tokens[0::2].tolist()) == wanted  # 8 prompts, an epoch
    first, second = (np.asarray(rollout.completion_tokens)[i::2] for i in (0, 1))
    assert (first != second).any(axis=1).sum() >= 7


def sums(model, params, rollout, temperature):
    sampling = SamplingConfig(temperature=temperature)
    log_probs, _ = completion_log_probs(model, params, rollout, sampling)
    return jnp.sum(jnp.where(rollout.completion_mask, log_probs, 0.0), axis=1)


def test_the_loss_is_dpo_on_sums_at_the_sampling_temperature(
    config, tiny_model, learn, moved, rollout, frozen, hparams
):
    policy = moved.params["policy"]
    scores = jnp.asarray(np.random.default_rng(0).permutation(16), jnp.float32)
    scores = scores.at[2].set(scores[3])  # a tie
    _, metrics = learn(moved, rollout, scores, frozen, hparams)
    total = jax.jit(lambda params, t: sums(tiny_model, params, rollout, t))
    logps = {t: np.asarray([total(p, t) for p in (policy, frozen.reference)]) for t in (0.7, 1.0)}
    gaps = np.asarray(scores[0::2] - scores[1::2])
    real = np.arange(8) != 1

    def expected(temperature):
        ratios = logps[temperature][0] - logps[temperature][1]
        margins = np.sign(gaps) * (ratios[0::2] - ratios[1::2])
        return np.mean(np.log1p(np.exp(-0.5 * margins[real]))), np.mean(0.5 * margins[real])

    loss, margin = expected(0.7)
    assert config.sampling.temperature == 0.7
    assert float(metrics["loss/policy_avg"]) == pytest.approx(loss, rel=1e-3)
    assert float(metrics["rewards/margins"]) == pytest.approx(margin, abs=1e-3)
    assert abs(loss - expected(1.0)[0]) > 1e-2
    assert float(metrics["val/tied_pairs"]) == pytest.approx(1 / 8)


def test_the_better_completion_becomes_likelier(tiny_model, learn, start, rollout, frozen, hparams):
    total = jax.jit(lambda params: sums(tiny_model, params["policy"], rollout, 0.7))
    before = np.asarray(total(start.params))
    for scores in (jnp.arange(16.0), -jnp.arange(16.0)):
        state = start
        for _ in range(5):
            state, metrics = learn(state, rollout, scores, frozen, hparams)
        gain = np.asarray(total(state.params)) - before
        better = 1 if scores[1] > scores[0] else 0
        assert (gain[better::2] - gain[1 - better :: 2]).mean() > 0.1
        assert float(metrics["rewards/margins"]) > 0.0
        assert float(metrics["rewards/accuracies"]) > 0.6


def test_a_tie_teaches_nothing(learn, start, rollout, frozen, hparams):
    state, metrics = learn(start, rollout, jnp.full(16, 3.0), frozen, hparams)
    assert float(metrics["grad_norm"]) == 0.0 and float(metrics["val/tied_pairs"]) == 1.0
    chex.assert_trees_all_equal(state.params, start.params)
    assert float(metrics["objective/scores"]) == 3.0 and int(state.skipped) == 0


def test_a_bad_score_is_skipped_and_counted(learn, start, rollout, frozen, hparams):
    scores = jnp.arange(16.0).at[5].set(jnp.nan)
    state, _ = learn(start, rollout, scores, frozen, hparams)
    assert int(state.skipped) == int(state.update) == 1
    chex.assert_trees_all_equal(state.params, start.params)


def test_rows_are_ranked_within_their_pair():
    better, worse, weights = online_dpo.rank(jnp.array([0.0, 1.0, 5.0, -5.0, 2.0, 2.0]))
    assert (better.tolist(), worse.tolist()) == ([1, 2, 4], [0, 3, 5])
    assert weights.tolist() == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("missing_eos, wins", [("none", 0), ("subtract", 0), ("replace", 1)])
def test_a_missing_end_counts_before_the_ranking(
    learn_bigrams, tiny_config, rollout, missing_eos, wins
):
    config = with_algo(tiny_config, missing_eos=missing_eos, missing_eos_penalty=1.0)
    free = dataclasses.replace(config.sampling, min_length=0)  # the first token may be the end
    config = dataclasses.replace(config, sampling=free)
    tokens = rollout.completion_tokens
    ended = (jnp.arange(16) % 2 == 1)[:, None]  # the second of each pair has an end
    last = jnp.arange(tokens.shape[1])[None] == 0
    tokens = jnp.where(last & ended, EOS, jnp.where(tokens == EOS, TARGET, tokens))
    mask = jnp.ones_like(rollout.completion_mask) & (last | ~ended)
    shown = dataclasses.replace(rollout, completion_tokens=tokens, completion_mask=mask)
    scores = jnp.where(jnp.arange(16) % 2 == 1, 0.0, 2.0)
    metrics = learn_bigrams(config, shown, scores)
    short, long = float(metrics["logps/chosen"]), float(metrics["logps/rejected"])
    assert (short > long) == (wins == 1)  # one token is likelier than six
    assert float(metrics["objective/scores"]) == 1.0  # as the reward gave them


def test_the_forward_pass_may_stand_for_the_sampler(learn_bigrams, tiny_config, rollout):
    config = with_algo(tiny_config, behavior_log_probs="forward")
    off = dataclasses.replace(rollout, behavior_log_probs=rollout.behavior_log_probs - 0.5)
    metrics = learn_bigrams(config, off, jnp.arange(16.0))
    assert float(metrics["val/ratio_first"]) == pytest.approx(1.0, abs=1e-6)
    assert float(metrics["objective/kl"]) == pytest.approx(0.0, abs=1e-4)


def test_completions_are_cut_at_their_end(
    bigram_model, bigram_frozen, config, tiny_config, tiny_prompts
):
    sampling = dataclasses.replace(tiny_config.sampling, stop_at_eos=False, max_length=12)
    config = dataclasses.replace(config, sampling=sampling)
    steps, hparams = make(bigram_model, config)
    start = one_step.init(config, bigram_frozen, KEY)
    found = jax.jit(steps.collect)(start, tiny_prompts, hparams)
    tokens, mask = np.asarray(found.completion_tokens), np.asarray(found.completion_mask)
    assert (tokens == EOS).any() and ((tokens == EOS).sum(axis=1) <= 1).all()
    assert (tokens[~mask] == PAD).all() and (tokens[mask] != PAD).all()


def test_it_learns_what_it_is_paid_for_and_a_negated_reward_does_not(
    step, start, tiny_prompts, frozen, hparams
):
    fast = hparams | {"optim": hparams["optim"] | {"learning_rate": jnp.float32(0.02)}}
    reached = {}
    for sign in (1.0, -1.0):
        paid = dataclasses.replace(frozen, reward={**frozen.reward, "sign": jnp.float32(sign)})
        state, scores = start, []
        for _ in range(30):
            state, metrics = step(state, tiny_prompts, paid, fast)
            scores.append(abs(float(metrics["objective/scores"])))
        reached[sign] = (np.mean(scores[:3]), np.mean(scores[-5:]))
    assert reached[1.0][1] > reached[1.0][0] + 0.5, reached
    assert reached[-1.0][1] < reached[-1.0][0], reached


def test_bradley_terry_ranking_is_the_expected_loss_over_both_orders(
    bigram_model, bigram_frozen, tiny_config, rollout
):
    """Of each pair p * l(first wins) + (1 - p) * l(second wins), p the chance of its scores."""
    score, ref = completion_log_probs, bigram_frozen.reference
    ref_log_probs, _ = score(bigram_model, ref, rollout, tiny_config.sampling)
    params = {"policy": bigram_frozen.reward["trunk"]}  # another model
    scores = jnp.tile(jnp.array([1.0, 2.0, 3.0, 3.0]), 4)

    def losses(ranking, shown):
        config = with_algo(tiny_config, ranking=ranking)
        pairs = lambda x: x.reshape(8, 2, *x.shape[1:])
        loss = lambda *pair: online_dpo.online_loss(bigram_model, config, params, *pair)[0]
        return np.asarray(
            jax.jit(jax.vmap(loss))(*jax.tree.map(pairs, (rollout, shown, ref_log_probs)))
        )

    first = losses("better", jnp.tile(jnp.array([1.0, 0.0]), 8))
    second = losses("better", jnp.tile(jnp.array([0.0, 1.0]), 8))
    chance = np.tile([1.0 / (1.0 + np.e), 0.5], 4)  # of the first
    found = losses("bradley_terry", scores)
    np.testing.assert_allclose(found, chance * first + (1.0 - chance) * second, rtol=1e-5)
    assert np.abs(found - second).max() > 0.01  # not the better one's alone


def test_a_score_that_is_no_number_is_not_ranked():
    assert jnp.isnan(online_dpo.rank(jnp.array([jnp.nan, 1.0]), "bradley_terry")[2]).all()
