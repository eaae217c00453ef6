"""Every surrogate, advantage estimator, aggregation and KL term inside the one update.

The model is one of bigrams: what is checked is around the network, and there are many programs.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import PolicyGradientConfig, merge_dynamic, split_dynamic
from rlhf_jax.train import policy_gradient
from rlhf_jax.train.experience import make_experience
from rlhf_jax.train.policy_loss import minibatch_loss
from rlhf_jax.train.scores import score_texts
from rlhf_jax.types import SpecialTokens

SPECIAL = SpecialTokens(pad=0, bos=1, eos=2)
KEY = jax.random.key(0)
SCORES = jnp.array([2.0, 0.0, 1.0, -1.0, 0.5, 0.5, 3.0, -2.0])


def choices(name):
    return PolicyGradientConfig.__dataclass_fields__[name].metadata["choices"]


def with_algo(config, **changes):
    return dataclasses.replace(config, algo=dataclasses.replace(config.algo, **changes))


@pytest.fixture(scope="module")
def start(tiny_config, bigram_frozen):
    return policy_gradient.init(tiny_config, bigram_frozen, KEY)


@pytest.fixture(scope="module")
def policy_alone(start):
    """The state of an algorithm without a value function."""
    return dataclasses.replace(start, params={"policy": start.params["policy"]})


@functools.partial(jax.jit, static_argnums=(0, 1))
def sample(model, config, state, prompts):
    return policy_gradient.sample(model, config, state, prompts, SPECIAL)


@pytest.fixture(scope="module")
def rollout(tiny_config, bigram_model, tiny_prompts, start):
    """Two completions of each of four prompts."""
    return sample(bigram_model, with_algo(tiny_config, group_size=2), start, tiny_prompts)


@pytest.fixture(scope="module")
def away(start):
    """A policy that has moved away from the one that sampled."""
    keys = iter(jax.random.split(jax.random.key(5), 100))
    move = lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape)
    return start.params | {"policy": jax.tree.map(move, start.params["policy"])}


@functools.partial(jax.jit, static_argnums=(0, 1))
def experiences(model, configs, state, rollout, reference, scores=SCORES):
    """What each config learns from, in one program."""
    make = lambda config: make_experience(
        model, config, state, score_texts(config.algo, rollout, scores, SPECIAL), reference
    )
    return [make(config)[0] for config in configs]


def experience_of(model, config, *args):
    return experiences(model, (config,), *args)[0]


@functools.partial(jax.jit, static_argnums=(0, 1))
def gradients(model, configs, extra, params, experiences):
    """The loss of each config on its experience, and the gradient, in one program."""
    loss = lambda params, config, batch: minibatch_loss(model, config, extra, params, batch)[0]
    of = jax.value_and_grad(loss)
    return [of(params, config, batch) for config, batch in zip(configs, experiences)]


def flat(tree):
    return np.concatenate([np.ravel(x) for x in jax.tree.leaves(tree)])


def critic_free(config, **changes):
    return with_algo(config, advantage="rloo", group_size=2, whiten_advantages="none", **changes)


def with_surrogate(config, surrogate):
    """Sequence means, the one aggregation in which a ratio is not spread over the tokens."""
    high = 0.3 if surrogate == "asymmetric_clip" else None
    changes = {"surrogate": surrogate, "clip_eps_high": high, "clip_eps": 0.01}
    return critic_free(config, **changes, aggregation="sequence_mean")


@pytest.fixture(scope="module")
def by_surrogate(tiny_config, bigram_model, bigram_frozen, policy_alone, rollout, away):
    """Gradients of every surrogate where the policy sampled, and away from there."""
    names = choices("surrogate")
    configs = tuple(with_surrogate(tiny_config, name) for name in names)
    state, reference = policy_alone, bigram_frozen.reference
    own = experiences(bigram_model, configs, state, rollout, reference)
    return [
        {name: flat(gradient) for name, (_, gradient) in zip(names, found)}
        for found in (
            gradients(bigram_model, configs, state.extra, {"policy": policy}, own)
            for policy in (state.params["policy"], away["policy"])
        )
    ]


@pytest.mark.parametrize("surrogate", choices("surrogate"))
def test_every_surrogate_starts_as_the_policy_gradient_and_then_differs(by_surrogate, surrogate):
    at_start, moved = by_surrogate
    np.testing.assert_allclose(at_start[surrogate], at_start["none"], atol=2e-5)
    assert np.abs(at_start[surrogate]).max() > 1e-2
    if surrogate != "none":
        assert np.abs(moved[surrogate] - moved["none"]).max() > 1e-3


def loop_sequence_advantages(kind, totals, size, baseline):
    groups = totals.reshape(-1, size)
    mean, others = groups.mean(1, keepdims=True), (size / (size - 1) if size > 1 else 1)
    found = {
        "grpo": (groups - mean) / (groups.std(1, keepdims=True) + 1e-8),
        "dr_grpo": groups - mean,
        "rloo": (groups - mean) * others,
        "best_of_group": groups == groups.max(1, keepdims=True),
        "batch_mean": groups - totals.mean(),
        "moving_mean": groups - baseline,
        "no_baseline": groups,
    }
    return found[kind].reshape(-1)


KINDS = ["grpo", "dr_grpo", "rloo", "best_of_group", "batch_mean", "moving_mean", "no_baseline"]


@pytest.fixture(scope="module")
def by_kind(tiny_config, bigram_model, policy_alone, rollout, away):
    """What every estimator of one advantage a text makes of a policy that is not the reference."""
    plain = with_algo(tiny_config, group_size=2, whiten_advantages="none")
    configs = tuple(with_algo(plain, advantage=kind) for kind in KINDS)
    extra = policy_alone.extra | {"baseline": jnp.float32(0.7), "kl_coef": jnp.float32(0.5)}
    state = dataclasses.replace(policy_alone, extra=extra, update=jnp.int32(3))
    args = (state, rollout, away["policy"], SCORES + 0.01)
    return dict(zip(KINDS, experiences(bigram_model, configs, *args)))


@pytest.mark.parametrize("kind", KINDS)
def test_sequence_advantages_of_score_less_kl(by_kind, rollout, kind):
    experience = by_kind[kind]
    mask = np.asarray(rollout.completion_mask)
    kl = np.asarray(rollout.behavior_log_probs - experience.ref_log_probs)
    assert np.abs(kl[mask]).min() > 1e-3
    totals = np.asarray(SCORES + 0.01) - 0.5 * np.where(mask, kl, 0).sum(1)
    expected = loop_sequence_advantages(kind, totals, 2, 0.7)
    found = np.asarray(experience.advantages)
    np.testing.assert_allclose(found[:, 0], expected, atol=2e-4)
    assert (found == found[:, :1]).all()


def test_reinforce_pp_whitens_returns_to_go(
    tiny_config, bigram_model, bigram_frozen, policy_alone, rollout
):
    config = with_algo(tiny_config, advantage="reinforce_pp", group_size=2, gamma=0.9)
    reference = bigram_frozen.reference
    experience = experience_of(bigram_model, config, policy_alone, rollout, reference)
    mask = np.asarray(rollout.completion_mask)
    rewards, returns = np.asarray(experience.rewards, np.float64), np.zeros(mask.shape)
    for t in reversed(range(mask.shape[1])):
        later = returns[:, t + 1] if t + 1 < mask.shape[1] else 0.0
        returns[:, t] = np.where(mask[:, t], rewards[:, t] + 0.9 * later, 0.0)
    expected = (returns - returns[mask].mean()) / returns[mask].std()
    np.testing.assert_allclose(np.asarray(experience.advantages)[mask], expected[mask], atol=1e-4)


def test_remax_takes_the_greedy_completions_score_off(
    tiny_config, bigram_model, bigram_frozen, tiny_prompts, start
):
    config = with_algo(tiny_config, advantage="remax", whiten_advantages="none", kl_coef=0.0)
    draw = lambda state: sample(bigram_model, config, state, tiny_prompts)
    state = dataclasses.replace(start, extra=start.extra | {"kl_coef": jnp.float32(0.0)})
    both = draw(state)
    assert both.completion_tokens.shape[0] == 16 == config.algo.completions
    again = draw(dataclasses.replace(state, key=jax.random.key(9)))
    prompts = np.asarray(both.prompt_tokens)
    assert (prompts[:8] == prompts[8:]).all()
    # Greedy completions of a prompt do not depend on the key; sampled ones do.
    order = lambda r: np.lexsort(np.asarray(r.prompt_tokens[8:]).T)
    greedy, other = (np.asarray(r.completion_tokens)[8:][order(r)] for r in (both, again))
    assert (greedy == other).all()
    scores = jnp.arange(16.0)
    reference = bigram_frozen.reference
    experience = experience_of(bigram_model, config, state, both, reference, scores)
    np.testing.assert_allclose(np.asarray(experience.advantages)[:, 0], -8.0)


@pytest.fixture(scope="module")
def by_estimator(tiny_config, bigram_model, bigram_frozen, policy_alone, rollout, away):
    """Loss and gradient with the KL in the loss by each estimator, and without it under None."""
    names = (None, *choices("kl_estimator"))
    config = critic_free(tiny_config, kl_placement="loss")
    configs = tuple(with_algo(config, kl_estimator=name) for name in names[1:])
    configs = (with_algo(config, kl_placement="none"), *configs)
    own = experiences(bigram_model, configs, policy_alone, rollout, bigram_frozen.reference)
    params = {"policy": away["policy"]}
    return dict(zip(names, gradients(bigram_model, configs, policy_alone.extra, params, own)))


@pytest.mark.parametrize("estimator", choices("kl_estimator"))
def test_the_kl_in_the_loss_adds_its_gradient(by_estimator, estimator):
    (with_kl, grads), (without, plain) = by_estimator[estimator], by_estimator[None]
    assert np.abs(flat(grads) - flat(plain)).max() > 1e-4
    if estimator != "k1":
        assert float(with_kl) > float(without)


def test_full_kl_in_the_reward_is_never_negative_and_k1_is(
    tiny_config, bigram_model, policy_alone, rollout, away
):
    names = ("k1", "full")
    configs = tuple(critic_free(tiny_config, kl_estimator=name) for name in names)
    args = (policy_alone, rollout, away["policy"], jnp.zeros(8))
    made = experiences(bigram_model, configs, *args)
    rewards = {name: np.asarray(one.rewards) for name, one in zip(names, made)}
    mask = np.asarray(rollout.completion_mask)
    assert (rewards["full"][mask] <= 1e-7).all() and (rewards["full"][mask] < -1e-4).any()
    assert (rewards["k1"][mask] > 1e-3).any()


def test_dynamic_sampling_keeps_groups_that_differ(tiny_config, rollout):
    algo = dataclasses.replace(
        tiny_config.algo, dynamic_sampling=2, batch_size=4, group_size=2, advantage="grpo"
    )
    scores = jnp.array([1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 2.0, 1.0])
    scored = score_texts(algo, rollout, scores, SPECIAL)
    assert scored.scores.tolist() == [0.0, 1.0, 2.0, 1.0]
    assert scored.rollout.completion_mask.any(axis=1).all()
    few = score_texts(algo, rollout, jnp.array([1.0, 1, 0, 1, 0, 0, 2, 2]), SPECIAL)
    assert few.rollout.completion_mask.any(axis=1).tolist() == [True, True, False, False]


@pytest.fixture(scope="module")
def learn(bigram_model, bigram_frozen, rollout):
    """`learn(config, state, **numbers)`: one update on the rollout, with other traced numbers."""

    @functools.cache
    def compiled(static):
        steps = policy_gradient.make_policy_gradient(
            bigram_model, static, special=SPECIAL, score=lambda *_: SCORES
        )
        return jax.jit(steps.learn)

    def update(config, state, rollout=rollout, scores=SCORES, **numbers):
        static, hparams = split_dynamic(config)
        assert merge_dynamic(static, hparams) == config
        hparams = hparams | {"algo": hparams["algo"] | numbers}
        return compiled(static)(state, rollout, scores, bigram_frozen, hparams)

    return update


@pytest.fixture(scope="module")
def warming(tiny_config, start):
    """Settings of five updates for the values alone, and `at(update)`, the state there."""
    config = with_algo(tiny_config, value_warmup=5, surrogate="adaptive_kl_penalty")
    return config, lambda update: dataclasses.replace(start, update=jnp.int32(update))


def test_a_policy_in_warm_up_stays_where_it_is_and_its_values_do_not(learn, start, warming):
    config, at = warming
    after, _ = learn(config, at(4))
    assert (flat(after.params["policy"]) == flat(start.params["policy"])).all()
    assert (flat(after.params["value"]) != flat(start.params["value"])).any()
    later, _ = learn(config, after)
    assert (flat(later.params["policy"]) != flat(start.params["policy"])).any()


def test_the_first_steps_after_a_warm_up_are_as_long_as_without_one(learn, warming):
    config, at = warming
    moved = {}
    for name, update in (("cold", 5), ("warm", 0)):
        state = at(update)
        while int(state.update) < 5:
            state, _ = learn(config, state)
        assert float(state.extra["penalty_coef"]) == 1.0  # the policy stands still by design
        assert float(state.extra["kl_coef"]) == pytest.approx(0.05)
        after, _ = learn(config, state)
        moved[name] = np.abs(flat(after.params["policy"]) - flat(state.params["policy"])).mean()
    assert moved["warm"] == pytest.approx(moved["cold"], rel=0.25)


@pytest.fixture(scope="module")
def limited(tiny_config):
    """Settings of an update that ends early, with a rate that falls."""
    optim = dataclasses.replace(tiny_config.optim, schedule="linear")
    config = with_algo(tiny_config, target_kl=1e-6, max_mean_ratio=10.0)
    return dataclasses.replace(config, optim=optim)


def test_an_update_ends_once_the_policy_has_moved_too_far(learn, limited, start):
    _, metrics = learn(limited, start)
    assert float(metrics["val/left_out"]) == 0.75  # all but the first of four steps
    _, metrics = learn(limited, start, target_kl=1e6)
    assert float(metrics["val/left_out"]) == 0.0


def test_steps_left_out_do_not_hold_the_schedule_back(learn, limited, bigram_frozen):
    state = policy_gradient.init(limited, bigram_frozen, KEY)
    after, metrics = learn(limited, state, target_kl=1e-9)
    assert float(metrics["val/left_out"]) == 0.75
    counts = [int(x) for x in jax.tree.leaves(after.opt_state) if x.dtype == jnp.int32]
    assert sorted(counts) == [1, 4]  # Adam took one step, the schedule all four


def test_the_penalty_doubles_where_the_policy_moves_too_far(learn, tiny_config, bigram_frozen):
    config = critic_free(tiny_config, surrogate="adaptive_kl_penalty", penalty_target=1e-7)
    state = policy_gradient.init(config, bigram_frozen, KEY)
    after, _ = learn(config, state)
    assert float(after.extra["penalty_coef"]) == 2.0
    after, _ = learn(config, state, penalty_target=1e6)
    assert float(after.extra["penalty_coef"]) == 0.5


def test_whitening_in_the_minibatch_uses_its_own_statistics(learn, tiny_config, start):
    whitened = {"whiten_over": "minibatch", "whiten_rewards": "keep_mean"}
    whole = with_algo(tiny_config, minibatches=1, epochs=1, whiten_rewards="keep_mean")
    results = []
    for config in (whole, with_algo(whole, **whitened)):  # one minibatch: the same statistics
        _, metrics = learn(config, start)
        results.append(float(metrics["loss/total"]))
    assert results[0] == pytest.approx(results[1], rel=1e-4)


def test_nothing_to_learn_from_is_no_mismatch_and_moves_nothing(
    learn, tiny_config, bigram_frozen, rollout
):
    config = critic_free(tiny_config, dynamic_sampling=2)
    twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), rollout)
    state = policy_gradient.init(config, bigram_frozen, KEY)
    after, metrics = learn(config, state, twice, jnp.zeros(16))
    assert float(metrics["val/ratio_first"]) == 1.0 and float(metrics["val/left_out"]) == 1.0
    assert (flat(after.params) == flat(state.params)).all()


def test_texts_of_fixed_length_are_scored_up_to_their_end(
    tiny_config, bigram_model, tiny_prompts, start
):
    from rlhf_jax.rollout.text import up_to_end

    sampling = dataclasses.replace(tiny_config.sampling, stop_at_eos=False)
    config = dataclasses.replace(tiny_config, sampling=sampling)
    state = dataclasses.replace(start, key=jax.random.key(3))
    found = sample(bigram_model, config, state, tiny_prompts)
    assert found.completion_mask.all()
    text = up_to_end(found, SPECIAL)
    tokens = np.asarray(found.completion_tokens)
    for row, mask in zip(tokens, np.asarray(text.completion_mask)):
        ends = np.flatnonzero(row == 2)
        assert mask.sum() == (ends[0] + 1 if ends.size else 6)
    assert (np.asarray(text.completion_mask).sum(1) < 6).any()


def scored(tiny_config, rollout, scores=SCORES, **changes):
    return score_texts(with_algo(tiny_config, **changes).algo, rollout, scores, SPECIAL)


def test_scores_are_clipped_then_charged_for_length_and_for_a_missing_end(tiny_config, rollout):
    tokens = np.asarray(rollout.completion_tokens)
    ended = (tokens == 2).any(axis=1)
    assert 0 < ended.sum() < 8
    lengths = np.asarray(rollout.completion_mask).sum(axis=1)
    found = scored(tiny_config, rollout, score_clip=1.5, overlong_buffer=2, overlong_penalty=4.0)
    expected = np.clip(SCORES, -1.5, 1.5) + 4.0 * np.clip((4 - lengths) / 2, -1, 0)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)
    replaced = scored(tiny_config, rollout, missing_eos="replace", missing_eos_penalty=3.0)
    np.testing.assert_allclose(replaced.scores, np.where(ended, SCORES, -3.0))
    lowered = scored(tiny_config, rollout, missing_eos="subtract", missing_eos_penalty=3.0)
    np.testing.assert_allclose(lowered.scores, np.where(ended, SCORES, SCORES - 3.0))
    assert scored(tiny_config, rollout, mask_truncated=True).learnt.tolist() == ended.tolist()


def test_unfinished_texts_teach_neither_policy_nor_values(
    tiny_config, bigram_model, bigram_frozen, start, rollout
):
    config = with_algo(tiny_config, mask_truncated=True, whiten_advantages="none")
    ended = jnp.asarray((np.asarray(rollout.completion_tokens) == 2).any(axis=1))
    found = []
    for offset in (0.0, 50.0):
        scores = jnp.where(ended, SCORES, SCORES + offset)
        args = (start, rollout, bigram_frozen.reference, scores)
        made = experiences(bigram_model, (config,), *args)
        found += gradients(bigram_model, (config,), start.extra, start.params, made)
    np.testing.assert_allclose(flat(found[0][1]), flat(found[1][1]), atol=1e-6)


def test_the_log_ratio_clip_and_the_huber_loss_reach_the_loss(
    tiny_config, bigram_model, bigram_frozen, start, rollout
):
    params = start.params | {"policy": bigram_frozen.reward["trunk"]}  # far away

    @jax.jit
    def losses(start, rollout, reference):
        def loss(**changes):
            config = with_algo(tiny_config, **changes)
            experience = experience_of(bigram_model, config, start, rollout, reference)
            return minibatch_loss(bigram_model, config, start.extra, params, experience)[1]

        return (
            loss(surrogate="none", clip_value=False),
            loss(surrogate="none", log_ratio_clip=1e-3),
            loss(value_loss="huber", huber_delta=1e-3, clip_value=False),
        )

    plain, cut, huber = losses(start, rollout, bigram_frozen.reference)
    assert abs(float(cut["loss/policy_avg"]) - float(plain["loss/policy_avg"])) > 1e-3
    assert float(huber["loss/value_avg"]) < 0.1 * float(plain["loss/value_avg"])


def test_the_controller_measures_in_its_unit(tiny_config, start):
    config = with_algo(tiny_config, kl_unit="token", kl_target=0.25)
    metrics = {"objective/kl": jnp.float32(6.0), "objective/kl_token": jnp.float32(0.25)}
    after = policy_gradient.after_update(None, config, start, None, metrics)
    assert float(after.extra["kl_coef"]) == pytest.approx(0.05)
    by_text = with_algo(config, kl_unit="sequence")
    after = policy_gradient.after_update(None, by_text, start, None, metrics)
    assert float(after.extra["kl_coef"]) > 0.05
