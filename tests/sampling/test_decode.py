"""Sampling: what is drawn, when it stops, and that its log-probabilities are the model's."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import SamplingConfig
from rlhf_jax.rollout.text import completion_log_probs
from rlhf_jax.sampling.decode import draw, generate
from rlhf_jax.types import Sequences, SpecialTokens

PAD, BOS, EOS = 0, 1, 2
KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def sample(tiny_config, tiny_model, tiny_frozen):
    """`sample(prompts, key, **sampling)` from the reference."""

    @functools.cache
    def compiled(sampling):
        special = SpecialTokens(pad=PAD, bos=BOS, eos=EOS)
        options = {"config": tiny_config.model, "sampling": sampling, "special": special}
        return jax.jit(functools.partial(generate, tiny_model, **options))

    def run(prompts, key=KEY, **sampling):
        config = dataclasses.replace(SamplingConfig(max_length=6), **sampling)
        return compiled(config)(tiny_frozen.reference, prompts, key)

    return run


@pytest.fixture(scope="module")
def many(tiny_prompts):
    """The prompts sixteen times, for what happens now and then."""
    return jax.tree.map(lambda x: jnp.tile(x, (16, 1)), tiny_prompts)


@pytest.mark.parametrize(
    "sampling",
    [{"temperature": 0.7, "min_length": 3}, {"temperature": 1.3, "top_k": 4, "top_p": 0.8}],
)
def test_log_probs_are_those_of_a_full_pass_without_filters(
    sample, many, tiny_model, tiny_frozen, sampling
):
    rollout = sample(many, **sampling)

    def full(**changed):
        settings = dataclasses.replace(SamplingConfig(), **(sampling | changed))
        run = jax.jit(completion_log_probs, static_argnums=(0, 3))
        return np.asarray(run(tiny_model, tiny_frozen.reference, rollout, settings)[0])

    mask = np.asarray(rollout.completion_mask)
    found = np.asarray(rollout.behavior_log_probs)
    np.testing.assert_allclose(found[mask], full()[mask], atol=1e-5)
    np.testing.assert_array_equal(found[~mask], 0.0)
    # What is lost would show: the temperature, and an end that cannot be drawn.
    assert np.abs(found - full(temperature=1.0))[mask].max() > 0.05
    if "min_length" in sampling:
        lost = (found - full(min_length=0))[:, :3]
        assert lost.min() > 1e-4 and lost.max() > 0.05


def test_an_end_that_cannot_be_drawn_cannot_be_learnt(tiny_model, tiny_frozen, sample, many):
    """Its probability is 0 in training too: nothing moves the policy's mass there unseen."""
    rollout = sample(many, min_length=6)

    def gradient(min_length):
        settings = SamplingConfig(max_length=6, min_length=min_length)
        total = lambda p: jnp.sum(completion_log_probs(tiny_model, p, rollout, settings)[0])
        return jax.jit(jax.grad(total))(tiny_frozen.reference)["embedding_vd"]

    assert np.abs(gradient(6)[EOS]).max() == 0.0 and np.abs(gradient(0)[EOS]).max() > 0.1


def test_a_completion_ends_with_eos_and_pads_follow(sample, many):
    rollout = sample(many)
    tokens, mask = np.asarray(rollout.completion_tokens), np.asarray(rollout.completion_mask)
    ended = 0
    for row, real in zip(tokens, mask):
        stops = np.flatnonzero(row == EOS)
        length = stops[0] + 1 if stops.size else len(row)
        ended += bool(stops.size)
        assert real.tolist() == [i < length for i in range(len(row))]
        assert (row[length:] == PAD).all() and (row[:length] != PAD).all()
    assert 10 < ended < 120  # both kinds occur
    assert tokens.dtype == np.int32 and mask.dtype == bool


def test_min_length_keeps_eos_away_and_max_length_cuts(sample, many):
    rollout = sample(many, min_length=4, max_length=5)
    tokens = np.asarray(rollout.completion_tokens)
    assert tokens.shape[1] == 5
    assert (tokens[:, :4] != EOS).all() and (tokens[:, 4] == EOS).any()


def test_a_completion_of_one_token_is_the_start_of_a_longer_one(sample, many):
    one, more = sample(many, max_length=1), sample(many, max_length=3)
    assert one.completion_tokens.shape == (len(many.tokens), 1)
    assert np.asarray(one.completion_mask).all()
    np.testing.assert_array_equal(one.completion_tokens, more.completion_tokens[:, :1])
    np.testing.assert_allclose(one.behavior_log_probs, more.behavior_log_probs[:, :1], atol=1e-5)


def test_top_k_1_is_greedy_whatever_the_key(
    sample, tiny_prompts, tiny_config, tiny_model, tiny_frozen
):
    rollout = sample(tiny_prompts, top_k=1, min_length=0)
    again = sample(tiny_prompts, jax.random.key(99), top_k=1, min_length=0)
    np.testing.assert_array_equal(rollout.completion_tokens, again.completion_tokens)
    window = (tiny_prompts.tokens.shape[1] - 1, rollout.tokens().shape[1] - 1)
    forward = jax.jit(tiny_model.apply, static_argnames="window")
    logits = forward(tiny_frozen.reference, rollout.tokens(), rollout.mask(), window=window).logits
    best = np.asarray(logits.at[..., [PAD, BOS]].set(-np.inf).argmax(axis=-1))
    mask = np.asarray(rollout.completion_mask)
    np.testing.assert_array_equal(np.asarray(rollout.completion_tokens)[mask], best[mask])


def test_extra_left_padding_changes_no_completion(sample, tiny_prompts):
    pad = lambda x: jnp.pad(x, [(0, 0), (3, 0)])
    wide = jax.tree.map(pad, tiny_prompts)
    a, b = sample(tiny_prompts, temperature=0.7), sample(wide, temperature=0.7)
    np.testing.assert_array_equal(a.completion_tokens, b.completion_tokens)
    np.testing.assert_allclose(a.behavior_log_probs, b.behavior_log_probs, atol=1e-5)


def test_the_key_decides(sample, tiny_prompts):
    a, b = sample(tiny_prompts), sample(tiny_prompts)
    jax.tree.map(np.testing.assert_array_equal, a, b)
    other = sample(tiny_prompts, jax.random.key(8))
    assert (a.completion_tokens != other.completion_tokens).any()


def test_prompts_come_back_unchanged(sample, tiny_prompts):
    rollout = sample(tiny_prompts)
    back = Sequences(tokens=rollout.prompt_tokens, mask=rollout.prompt_mask)
    jax.tree.map(np.testing.assert_array_equal, back, tiny_prompts)


def test_steps_are_those_of_the_longest_completion_of_all_lanes(
    tiny_config, tiny_model, tiny_frozen, tiny_prompts
):
    steps, length = [], 20

    def counted(params, tokens, mask, **rest):
        if tokens.shape[1] == 1:
            jax.debug.callback(lambda _: steps.append(1), mask[0])
        return tiny_model.apply(params, tokens, mask, **rest)

    def run(key):
        model = tiny_model._replace(apply=counted)
        special = SpecialTokens(pad=PAD, bos=BOS, eos=EOS)
        sampling = SamplingConfig(max_length=length)
        settings = {"config": tiny_config.model, "sampling": sampling, "special": special}
        return generate(model, tiny_frozen.reference, few, key, **settings)

    def counting(f, *args):
        steps.clear()
        found = jax.device_get(f(*args))
        jax.effects_barrier()
        return found, len(steps)

    few = jax.tree.map(lambda x: x[:3], tiny_prompts)
    keys, solo = jax.random.split(jax.random.key(1), 3), jax.jit(run)
    alone = [counting(solo, key) for key in keys]
    longest = [rollout.completion_mask.sum(axis=1).max() for rollout, _ in alone]
    assert [count for _, count in alone] == [most - 1 for most in longest]
    assert len(set(longest)) > 1 and max(longest) < length
    together, count = counting(jax.jit(jax.vmap(run)), keys)
    assert count == len(keys) * (max(longest) - 1)  # called back once a lane
    for lane, (rollout, _) in enumerate(alone):
        assert not rollout.completion_mask[:, longest[lane] :].any()
        mine = jax.tree.map(lambda x, lane=lane: x[lane], together)
        np.testing.assert_array_equal(mine.completion_tokens, rollout.completion_tokens)
        np.testing.assert_array_equal(mine.completion_mask, rollout.completion_mask)
        np.testing.assert_allclose(mine.behavior_log_probs, rollout.behavior_log_probs, atol=1e-5)


def test_lanes_share_the_end_of_their_loop(tiny_config, tiny_model, tiny_frozen, tiny_prompts):
    """Else each step would choose, for every lane, between its caches before and after."""
    special = SpecialTokens(pad=PAD, bos=BOS, eos=EOS)
    settings = {"config": tiny_config.model, "sampling": SamplingConfig(max_length=4)}
    run = functools.partial(generate, tiny_model, special=special, **settings)
    keys = jax.random.split(KEY, 3)
    lanes = jax.vmap(lambda key: run(tiny_frozen.reference, tiny_prompts, key))
    (loop,) = [e for e in jax.make_jaxpr(lanes)(keys).eqns if e.primitive.name == "while"]
    (goes_on,) = loop.params["cond_jaxpr"].jaxpr.outvars
    assert goes_on.aval.shape == ()  # [3] if each lane had an end of its own


def test_draws_follow_the_softmax_of_what_is_allowed():
    logits = jnp.array([9.0, 8.0, 1.0, -0.5, 0.0])  # padding and BOS have the largest logits
    allowed = [2, 3, 4]
    count = 20_000
    special = SpecialTokens(pad=PAD, bos=BOS, eos=EOS)
    rows = jnp.broadcast_to(logits, (count, 5))
    draws = draw(rows, KEY, SamplingConfig(), special)
    found = np.bincount(draws, minlength=5)
    weights = np.exp(np.asarray(logits, np.float64))[allowed]
    expected = count * weights / weights.sum()
    assert found.sum() == found[allowed].sum()
    chi_square = ((found[allowed] - expected) ** 2 / expected).sum()
    assert chi_square < 13.8  # 1 in 1000 with 2 degrees of freedom; wrong weights give hundreds
