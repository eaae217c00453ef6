"""Value functions and reward models: what they share with the policy and where they are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models.value_heads import init_head, init_value, policy_and_values, score_texts

MODES = ("separate", "shared", "shared_stop_gradient")
KEY = jax.random.key(3)
RUN = jax.jit(policy_and_values, static_argnums=0, static_argnames=("window", "mode"))
SCORE = jax.jit(score_texts, static_argnums=0)


@pytest.fixture(scope="module")
def texts():
    """Right-padded texts of 5, 3 and 4 tokens."""
    tokens = jax.random.randint(KEY, (3, 5), 3, 12, jnp.int32)
    return tokens, jnp.arange(5)[None] < jnp.array([5, 3, 4])[:, None]


def policy_of(frozen, mode, init="sft"):
    value = init_value(KEY, frozen.reference, frozen.reward, mode=mode, init=init)
    return {"policy": frozen.reference, "value": value}


def values(model, params, texts, mode, window=(0, 5)):
    return RUN(model, params, *texts, window=window, mode=mode)[1]


def size(tree):
    return sum(float(np.abs(x).sum()) for x in jax.tree.leaves(tree))


@pytest.mark.parametrize("mode", MODES)
def test_who_learns_from_the_value_loss(tiny_model, tiny_frozen, texts, mode):
    params = policy_of(tiny_frozen, mode)
    square = jax.grad(lambda p: jnp.sum(jnp.square(values(tiny_model, p, texts, mode) - 1.0)))
    grads = square(params)
    assert (size(grads["policy"]) > 0) == (mode == "shared")
    if mode != "shared":
        assert size(grads["policy"]) == 0.0
    assert size(grads["value"]["head"]) > 0
    assert ("trunk" in grads["value"]) == (mode == "separate")


@pytest.mark.parametrize("mode", MODES)
def test_a_zero_head_starts_at_0(tiny_model, tiny_frozen, texts, mode):
    params = policy_of(tiny_frozen, mode, "zero")
    np.testing.assert_array_equal(values(tiny_model, params, texts, mode), 0.0)


def test_the_reward_models_value_at_the_end_is_its_score(tiny_model, tiny_frozen, texts):
    params = policy_of(tiny_frozen, "separate", "reward_model")
    found = values(tiny_model, params, texts, "separate")
    scores = SCORE(tiny_model, tiny_frozen.reward, *texts)
    last = np.asarray(jnp.sum(texts[1], axis=1)) - 1
    np.testing.assert_allclose(np.asarray(found)[np.arange(3), last], scores, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_the_supervised_start_reads_the_policys_hidden_states(tiny_model, tiny_frozen, texts, mode):
    params = policy_of(tiny_frozen, mode, "sft")
    hidden = jax.jit(tiny_model.apply)(tiny_frozen.reference, *texts).hidden
    expected = hidden @ params["value"]["head"]["weight_d"]
    np.testing.assert_allclose(values(tiny_model, params, texts, mode), expected, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_logits_are_the_policys_whatever_the_mode(tiny_model, tiny_frozen, texts, mode):
    params = policy_of(tiny_frozen, mode)
    logits, _ = RUN(tiny_model, params, *texts, window=(1, 4), mode=mode)
    expected = jax.jit(tiny_model.apply)(tiny_frozen.reference, *texts).logits[:, 1:4]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_scores_read_the_last_real_token_wherever_padding_stands(tiny_model, tiny_frozen, texts):
    tokens, mask = texts
    scores = SCORE(tiny_model, tiny_frozen.reward, tokens, mask)
    for row, length in enumerate((5, 3, 4)):
        real = tokens[row : row + 1, :length]
        for left, right in ((0, 0), (2, 0), (1, 3)):
            pads = [(0, 0), (left, right)]
            wide = (
                jnp.pad(real, pads, constant_values=7),
                jnp.pad(jnp.ones((1, length), bool), pads),
            )
            score = SCORE(tiny_model, tiny_frozen.reward, *wide)
            np.testing.assert_allclose(score, scores[row : row + 1], atol=1e-5)
    changed = SCORE(tiny_model, tiny_frozen.reward, tokens.at[1, 2].set(11), mask)
    assert abs(changed[1] - scores[1]) > 1e-4


def test_the_random_head_has_the_scale_it_says():
    head = init_head(KEY, 4000)
    assert float(jnp.std(head["weight_d"])) == pytest.approx(4001**-0.5, rel=0.05)
    assert float(head["bias"]) == 0.0
