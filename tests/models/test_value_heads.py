"""Value functions and reward models: what they share with the policy and where they are read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import ConfigError, ModelConfig
from rlhf_jax.models.functional import parameter_count
from rlhf_jax.models.transformer import make_transformer
from rlhf_jax.models.value_heads import init_head, init_value, policy_and_values, score_texts
from rlhf_jax.ops.distributions import log_probs_of
from rlhf_jax.train.state import Frozen

CONFIG = ModelConfig(layers=3, width=16, heads=2, kv_heads=1, ff_width=32, context=32)
MODEL = make_transformer(CONFIG, 12)
KEY = jax.random.key(3)
# mode, the value function's own layers
MODES = [
    ("separate", 1),
    ("separate_matched", 1),
    ("shared", 1),
    ("shared_stop_gradient", 1),
    ("top_k_layers", 1),
    ("top_k_layers", 2),
    ("top_k_layers", 3),  # all but the embedding
]
RUN = jax.jit(policy_and_values, static_argnums=0, static_argnames=("window", "mode", "layers"))
SCORE = jax.jit(score_texts, static_argnums=0)


@pytest.fixture(scope="module")
def frozen():
    """A reference and a reward model with different random parameters, sharper than fresh ones."""
    start = jax.jit(MODEL.init)
    trunk, other = (
        jax.tree.map(lambda x: 2.0 * x, start(key)) for key in jax.random.split(jax.random.key(0))
    )
    head = init_head(jax.random.key(1), CONFIG.width)
    return Frozen(reference=trunk, reward={"trunk": other, "head": head})


@pytest.fixture(scope="module")
def texts():
    """Right-padded texts of 5, 3 and 4 tokens."""
    tokens = jax.random.randint(KEY, (3, 5), 3, 12, jnp.int32)
    return tokens, jnp.arange(5)[None] < jnp.array([5, 3, 4])[:, None]


def policy_of(frozen, mode, layers=1, init="random"):
    made = init_value(KEY, frozen.reference, frozen.reward, mode=mode, init=init, layers=layers)
    return {"policy": frozen.reference, "value": made}


def values(params, texts, mode, layers=1, window=(0, 5)):
    return RUN(MODEL, params, *texts, window=window, mode=mode, layers=layers)[1]


def size(tree):
    return sum(float(np.abs(x).sum()) for x in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def value_gradients(frozen, texts):
    """Gradients of a value loss by mode and layers."""

    def gradient(mode, layers):
        params = policy_of(frozen, mode, layers)
        loss = lambda p: jnp.sum(jnp.square(values(p, texts, mode, layers) - 1.0))
        return jax.grad(loss)(params)

    return {(mode, layers): gradient(mode, layers) for mode, layers in MODES}


@pytest.mark.parametrize("mode", ["separate", "separate_matched", "shared_stop_gradient"])
def test_the_value_loss_leaves_the_policy_alone(value_gradients, mode):
    assert size(value_gradients[mode, 1]["policy"]) == 0.0


def test_a_shared_trunk_learns_from_the_value_loss(value_gradients):
    grads = value_gradients["shared", 1]["policy"]
    assert all(size(grads[name]) > 1e-3 for name in grads)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_an_own_top_leaves_that_of_the_policy_alone(value_gradients, layers):
    grads = value_gradients["top_k_layers", layers]
    own = {f"block_{i}" for i in range(3 - layers, 3)} | {"final_norm"}
    assert set(grads["value"]["top"]) == own
    assert all(size(grads["value"]["top"][name]) > 1e-3 for name in own)
    for name, part in grads["policy"].items():
        assert (size(part) == 0.0) == (name in own)


@pytest.mark.parametrize("mode, layers", MODES)
def test_the_value_loss_reaches_all_that_the_value_owns(value_gradients, mode, layers):
    grads = value_gradients[mode, layers]["value"]
    own = {"separate": "trunk", "separate_matched": "trunk", "top_k_layers": "top"}
    assert set(grads) == {"head"} | ({own[mode]} if mode in own else set())
    assert all(size(part) > 1e-3 for part in grads.values())


@pytest.mark.parametrize("mode, layers", MODES)
def test_the_policys_loss_never_moves_the_value(frozen, texts, mode, layers):
    def loss(p):
        logits, _ = RUN(MODEL, p, *texts, window=(0, 4), mode=mode, layers=layers)
        return jnp.sum(log_probs_of(logits, texts[0][:, 1:]))

    grads = jax.grad(loss)(policy_of(frozen, mode, layers))
    assert size(grads["value"]) == 0.0
    assert all(size(part) > 1e-3 for part in grads["policy"].values())


@pytest.mark.parametrize("mode, layers", MODES)
def test_a_zero_head_starts_at_0(frozen, texts, mode, layers):
    params = policy_of(frozen, mode, layers, "zero")
    np.testing.assert_array_equal(values(params, texts, mode, layers), 0.0)


def test_the_reward_models_value_at_the_end_is_its_score(frozen, texts):
    found = values(policy_of(frozen, "separate", init="reward_model"), texts, "separate")
    scores = SCORE(MODEL, frozen.reward, *texts)
    last = np.asarray(jnp.sum(texts[1], axis=1)) - 1
    np.testing.assert_allclose(np.asarray(found)[np.arange(3), last], scores, atol=1e-5)


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_the_reward_models_top_on_its_own_lower_layers_is_the_reward_model(frozen, texts, layers):
    params = policy_of(frozen, "top_k_layers", layers, "reward_model")
    expected = values(policy_of(frozen, "separate", init="reward_model"), texts, "separate")
    elsewhere = values(params, texts, "top_k_layers", layers)
    assert np.abs(elsewhere - expected).max() > 1e-2  # on the policy's lower layers it is not
    lower = {"embedding_vd"} | {f"block_{i}" for i in range(3 - layers)}
    trunk = {k: frozen.reward["trunk"][k] if k in lower else v for k, v in params["policy"].items()}
    found = values(params | {"policy": trunk}, texts, "top_k_layers", layers)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("mode, layers", MODES)
def test_the_supervised_start_reads_the_policys_hidden_states(frozen, texts, mode, layers):
    params = policy_of(frozen, mode, layers, "random")
    hidden = jax.jit(MODEL.apply)(frozen.reference, *texts).hidden
    expected = hidden @ params["value"]["head"]["weight_d"]
    np.testing.assert_allclose(values(params, texts, mode, layers), expected, atol=1e-5)


@pytest.mark.parametrize("mode, layers", MODES)
def test_logits_are_the_policys_to_the_bit_whatever_the_mode(frozen, texts, mode, layers):
    params = policy_of(frozen, mode, layers)
    logits, _ = RUN(MODEL, params, *texts, window=(1, 4), mode=mode, layers=layers)
    apply = jax.jit(MODEL.apply, static_argnames="window")
    np.testing.assert_array_equal(logits, apply(frozen.reference, *texts, window=(1, 4)).logits)


def test_padding_changes_no_values_of_an_own_top(frozen, texts):
    params = policy_of(frozen, "top_k_layers", 2)
    tokens, mask = texts
    wide = jnp.pad(tokens, [(0, 0), (2, 1)], constant_values=7), jnp.pad(mask, [(0, 0), (2, 1)])
    found = values(params, wide, "top_k_layers", 2, window=(2, 7))
    real = np.asarray(mask)
    expected = values(params, texts, "top_k_layers", 2)
    np.testing.assert_allclose(found[real], expected[real], atol=1e-5)


def test_each_own_layer_costs_a_layer(frozen, texts):
    def flops(mode, layers=1):
        params = policy_of(frozen, mode, layers)
        run = RUN.lower(MODEL, params, *texts, window=(0, 5), mode=mode, layers=layers)
        return run.compile().cost_analysis()["flops"]

    none, one, two = flops("shared"), flops("top_k_layers", 1), flops("top_k_layers", 2)
    assert two - one == pytest.approx(one - none, rel=0.05)
    # Three layers and no second set of logits: as much as a network beside the policy.
    assert flops("separate") - none == pytest.approx(3 * (one - none), rel=0.05)


def test_more_own_layers_than_there_are_is_refused(frozen):
    with pytest.raises(ConfigError, match=r"model.value_layers=4.*model.layers=3"):
        policy_of(frozen, "top_k_layers", 4)


def test_what_the_value_owns_in_parameters(frozen):
    own = {mode: parameter_count(policy_of(frozen, *mode)["value"]) for mode in MODES}
    head, trunk = 17, parameter_count(frozen.reference)
    assert own["shared", 1] == own["shared_stop_gradient", 1] == head
    assert own["separate", 1] == own["separate_matched", 1] == head + trunk
    embedding = 12 * 16
    assert own["top_k_layers", 3] == head + trunk - embedding
    block = parameter_count(frozen.reference["block_0"])
    assert own["top_k_layers", 1] == head + block + 16


def test_scores_read_the_last_real_token_wherever_padding_stands(frozen, texts):
    tokens, mask = texts
    scores = SCORE(MODEL, frozen.reward, tokens, mask)
    for row, length in enumerate((5, 3, 4)):
        real = tokens[row : row + 1, :length]
        for left, right in ((0, 0), (2, 0), (1, 3)):
            pads = [(0, 0), (left, right)]
            wide = (
                jnp.pad(real, pads, constant_values=7),
                jnp.pad(jnp.ones((1, length), bool), pads),
            )
            score = SCORE(MODEL, frozen.reward, *wide)
            np.testing.assert_allclose(score, scores[row : row + 1], atol=1e-5)
    changed = SCORE(MODEL, frozen.reward, tokens.at[1, 2].set(11), mask)
    assert abs(changed[1] - scores[1]) > 1e-4


@pytest.mark.parametrize("scale, std", [("inverse_sqrt", 4001**-0.5), ("inverse", 1 / 4001)])
def test_the_random_head_has_the_scale_it_says(scale, std):
    head = init_head(KEY, 4000, scale=scale)
    assert float(jnp.std(head["weight_d"])) == pytest.approx(std, rel=0.05)
    assert float(head["bias"]) == 0.0


def test_a_head_of_zeros_and_the_default():
    np.testing.assert_array_equal(init_head(KEY, 5, scale="zero")["weight_d"], 0.0)
    default, named = init_head(KEY, 5), init_head(KEY, 5, scale="inverse_sqrt")
    np.testing.assert_array_equal(default["weight_d"], named["weight_d"])
