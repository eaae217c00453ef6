"""The language model: who sees whom, padding, the cache, and how parameters are laid out."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo

from rlhf_jax.config import ConfigError, ModelConfig
from rlhf_jax.losses.language_model import cross_entropy
from rlhf_jax.models.blocks import matmul, matmul_transposed, rotary, rotate
from rlhf_jax.models.functional import Model, parameter_count
from rlhf_jax.models.transformer import empty_cache, make_language_model, make_transformer
from rlhf_jax.ops.distributions import log_probs_of
from rlhf_jax.types import SpecialTokens

CONFIG = ModelConfig(layers=2, width=16, heads=4, kv_heads=2, ff_width=32, context=32)
V, B, L = 12, 3, 6
MODEL = make_transformer(CONFIG, V)
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def params():
    return jax.jit(MODEL.init)(KEY)


@pytest.fixture(scope="module")
def tokens():
    return jax.random.randint(jax.random.key(1), (B, L), 3, V, jnp.int32)


APPLY = jax.jit(
    MODEL.apply, static_argnames=("window", "tap")
)  # one compilation a shape, not one an op


def logits(params, tokens, mask=None, apply=APPLY, **kwargs):
    mask = jnp.ones(tokens.shape, bool) if mask is None else mask
    return apply(params, tokens, mask, **kwargs).logits


def padded(tokens, left, right):
    """Junk tokens around the real ones, all masked out."""
    rows = [(0, 0), (left, right)]
    real = jnp.pad(jnp.ones(tokens.shape, bool), rows)
    return jnp.pad(tokens, rows, constant_values=7), real


def test_a_later_token_changes_no_earlier_logits(params, tokens):
    before = logits(params, tokens)
    after = logits(params, tokens.at[:, 4].set((tokens[:, 4] + 1) % V))
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert np.abs(before[:, 4:] - after[:, 4:]).max(axis=(0, 2)).min() > 1e-4


def test_every_earlier_token_is_seen(params, tokens):
    def last(x):
        return jnp.sum(logits(params, x)[:, -1])

    for i in range(L):
        assert abs(last(tokens.at[:, i].set(3)) - last(tokens.at[:, i].set(4))) > 1e-5


@pytest.mark.parametrize("left, right", [(3, 0), (0, 3), (2, 4)])
def test_padding_changes_no_logits(params, tokens, left, right):
    wide, mask = padded(tokens, left, right)
    found = logits(params, wide, mask)[:, left : left + L]
    np.testing.assert_allclose(found, logits(params, tokens), atol=1e-5)


def test_padding_changes_no_gradients(params, tokens):
    def loss(params, tokens, mask):
        losses = cross_entropy(logits(params, tokens, mask)[:, :-1], tokens[:, 1:])
        real = mask[:, 1:] & mask[:, :-1]
        return jnp.sum(jnp.where(real, losses, 0.0)) / jnp.sum(real, dtype=jnp.float32)

    grad = jax.jit(jax.grad(loss))
    grads = grad(params, tokens, jnp.ones(tokens.shape, bool))
    wide_grads = grad(params, *padded(tokens, 2, 4))
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(wide_grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
        assert np.isfinite(b).all()


def test_rows_of_different_lengths_equal_each_alone(params, tokens):
    lengths = (2, 5, 6)
    mask = jnp.arange(L)[None] >= L - jnp.array(lengths)[:, None]
    together = logits(params, tokens, mask)
    for row, n in enumerate(lengths):
        alone = logits(params, tokens[row : row + 1, L - n :])[0]
        np.testing.assert_allclose(together[row, L - n :], alone, atol=1e-5)


def test_cached_decoding_equals_a_full_pass(params, tokens):
    prompt, extra = 4, 3  # more slots than needed, and left padding in two rows
    mask = jnp.ones((B, L), bool).at[0, :3].set(False).at[1, :1].set(False)
    mask = mask.at[2, 4].set(False)  # a step that later ones must not see
    expected = logits(params, tokens, mask)
    cache = empty_cache(CONFIG, B, L + extra)
    output = APPLY(params, tokens[:, :prompt], mask[:, :prompt], cache=cache)
    got = [output.logits]
    for t in range(prompt, L):
        step = tokens[:, t : t + 1], mask[:, t : t + 1]
        output = APPLY(params, *step, cache=output.cache)
        got.append(output.logits)
    real = np.asarray(mask)
    np.testing.assert_allclose(np.concatenate(got, axis=1)[real], expected[real], atol=1e-5)
    assert int(output.cache.length) == L


def test_several_tokens_may_follow_a_cache(params, tokens):
    mask = jnp.ones((B, L), bool).at[0, :1].set(False)
    expected = logits(params, tokens, mask)[:, 3:5]
    first = APPLY(params, tokens[:, :2], mask[:, :2], cache=empty_cache(CONFIG, B, L))
    rest = {"cache": first.cache, "window": (1, 3)}
    output = jax.jit(lambda t, m: MODEL.apply(params, t, m, **rest))(tokens[:, 2:5], mask[:, 2:5])
    np.testing.assert_allclose(output.logits, expected, atol=1e-5)


def test_grouped_queries_equal_repeated_key_and_value_heads(params, tokens):
    full = make_transformer(dataclasses.replace(CONFIG, kv_heads=CONFIG.heads), V)

    def repeat(path, x):
        shared = path[-1].key in ("key_dkh", "value_dkh")
        return jnp.repeat(x, CONFIG.heads // CONFIG.kv_heads, axis=1) if shared else x

    repeated = jax.tree_util.tree_map_with_path(repeat, params)
    np.testing.assert_allclose(
        logits(repeated, tokens, apply=jax.jit(full.apply)), logits(params, tokens), atol=1e-5
    )


@pytest.mark.parametrize("tied, heads", [(True, 1), (False, 2)])
def test_parameter_count(tied, heads):
    d, f, k = CONFIG.width, CONFIG.ff_width, CONFIG.kv_heads * CONFIG.width // CONFIG.heads
    block = 2 * d + 2 * d * d + 2 * d * k + 3 * d * f  # norms, query and out, key and value, SwiGLU
    expected = heads * V * d + CONFIG.layers * block + d
    model = make_transformer(dataclasses.replace(CONFIG, tied=tied), V)
    assert parameter_count(jax.eval_shape(model.init, KEY)) == expected


def test_bfloat16_products_give_float32_outputs_close_to_float32(params, tokens):
    rough = make_transformer(dataclasses.replace(CONFIG, dtype="bfloat16"), V)
    output = jax.jit(rough.apply)(params, tokens, jnp.ones(tokens.shape, bool))
    assert output.logits.dtype == output.hidden.dtype == jnp.float32
    exact = logits(params, tokens)
    error = np.abs(output.logits - exact).max() / np.abs(exact).max()
    assert 0 < error < 0.05
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(jax.eval_shape(rough.init, KEY)))


@pytest.mark.parametrize("window", [None, (1, 4)])
def test_attention_of_jax_nn_gives_the_logits_and_gradients_of_our_own(params, tokens, window):
    theirs = make_transformer(dataclasses.replace(CONFIG, attention="xla"), V)
    some, real = padded(tokens, 2, 1)
    start, stop = window or (0, some.shape[1])
    seen = real[:, start:stop, None].astype(jnp.float32)  # what padding says is nobody's

    def total(params, apply):
        found = logits(params, some, real, apply, window=window)
        return jnp.sum(jnp.sin(found) * seen), found * seen

    (ours, at), (others, there) = (
        jax.jit(jax.grad(total, has_aux=True), static_argnames="apply")(params, apply=model.apply)
        for model in (MODEL, theirs)
    )
    np.testing.assert_allclose(at, there, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), ours, others)


@pytest.mark.parametrize("window", [None, (2, 5)])  # even and odd lengths
def test_cudnn_is_what_a_gpu_is_given_for_both_passes(monkeypatch, params, tokens, window):
    """Lowered for a GPU that is not here: its kernels are in the program, nothing is run."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    config = dataclasses.replace(CONFIG, width=32, attention="cudnn", dtype="bfloat16")
    model = make_transformer(config, V)
    shapes = jax.eval_shape(model.init, KEY)
    total = lambda p: jnp.sum(logits(p, tokens, apply=model.apply, window=window))
    program = jax.jit(jax.grad(total)).trace(shapes).lower(lowering_platforms=("cuda",)).as_text()
    assert "fmhaScaleBiasSoftmax(" in program.replace('"', "(")
    assert "fmhaScaleBiasSoftmaxBackward" in program


def test_a_kernel_of_another_device_is_named(params, tokens):
    config = dataclasses.replace(CONFIG, attention="cudnn", dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"model\.attention='cudnn': needs an NVIDIA GPU"):
        make_transformer(config, V).apply(params, tokens, tokens > 0)


def test_rotary_products_depend_on_distance_only():
    q, k = jax.random.normal(KEY, (2, 1, 1, 1, 8))

    def product(at_q, at_k):
        q_there, k_there = (
            rotate(x, rotary(jnp.full((1, 1), at, jnp.int32), 32, 8, 1e4))
            for x, at in ((q, at_q), (k, at_k))
        )
        return float(jnp.sum(q_there * k_there))

    assert product(5, 2) == pytest.approx(product(25, 22), abs=1e-5)
    assert abs(product(5, 2) - product(5, 3)) > 1e-3
    np.testing.assert_array_equal(rotate(q, rotary(jnp.zeros((1, 1), jnp.int32), 32, 8, 1e4)), q)


def test_a_rotation_is_a_product_with_a_complex_number():
    positions, theta, width = np.array([[0, 1, 2, 7]]), 100.0, 8
    x = np.asarray(jax.random.normal(KEY, (1, 4, 3, width)))
    pairs = x[..., : width // 2] + 1j * x[..., width // 2 :]
    speed = theta ** (-np.arange(width // 2) / (width // 2))
    turned = pairs * np.exp(1j * positions[..., None, None] * speed)
    wanted = np.concatenate([turned.real, turned.imag], axis=-1)
    angles = rotary(jnp.asarray(positions, jnp.int32), 8, width, theta)
    np.testing.assert_allclose(rotate(jnp.asarray(x), angles), wanted, atol=1e-5)
    backwards = (-angles[0], angles[1])
    assert np.abs(np.asarray(rotate(jnp.asarray(x), backwards)) - wanted).max() > 0.1


@pytest.mark.parametrize("dtype, atol", [("float32", 1e-5), ("bfloat16", 0.1)])
@pytest.mark.parametrize(  # times 6 columns: of many, narrower than the other, wider
    "shape", [(2, 3, 5, 7), (40, 5), (40, 64)]
)
def test_the_gradient_of_a_product_is_that_of_autodiff(shape, dtype, atol):
    other = (*shape[:-2], shape[-1], 6)
    x, y = jax.random.normal(KEY, shape), jax.random.normal(jax.random.key(9), other)
    wanted = jax.grad(lambda x, y: jnp.sum(jnp.sin(x @ y)), (0, 1))(x, y)
    flipped = lambda x, y: matmul_transposed(x, jnp.swapaxes(y, -1, -2))
    rough = x.astype(dtype), y.astype(dtype)
    for product in (matmul, flipped):
        total = lambda x, y, product=product: jnp.sum(jnp.sin(product(x, y)))
        found = jax.jit(jax.grad(total, (0, 1)))(*rough)
        assert all(g.dtype == dtype for g in found)
        for a, b in zip(found, wanted):
            np.testing.assert_allclose(a.astype(jnp.float32), b, atol=atol * np.abs(b).max())


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA's CPU compiler")
def test_products_in_bf16_are_not_computed_in_float32():
    x, y = jnp.ones((64, 32), jnp.bfloat16), jnp.ones((32, 128), jnp.bfloat16)
    total = lambda x, y: jnp.sum(jnp.sin(matmul(x, y)))
    program = jax.jit(jax.grad(total, (0, 1))).lower(x, y).compile().as_text()
    assert program.count(" dot(") == 3
    assert not re.search(r"= f32\[(64,32|32,64|32,128)\]\S* convert", program)


def test_init_over_lanes_equals_init_of_each(params):
    keys = jnp.stack([KEY, jax.random.key(5)])
    lanes = jax.jit(jax.vmap(MODEL.init))(keys)
    assert parameter_count(lanes) == 2 * parameter_count(params)
    for lane, x in zip(jax.tree.leaves(lanes), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(lane[0], x, atol=1e-6)


def test_apply_over_lanes_equals_apply_of_each(params, tokens):
    double = jax.tree.map(lambda x: jnp.stack([x, 2.0 * x]), params)
    lanes = jax.vmap(lambda p: logits(p, tokens))(double)
    np.testing.assert_allclose(lanes[0], logits(params, tokens), atol=1e-5)


def test_a_window_equals_slicing(params, tokens):
    mask = jnp.ones(tokens.shape, bool)
    whole = APPLY(params, tokens, mask)
    part = APPLY(params, tokens, mask, window=(2, 5))
    np.testing.assert_allclose(part.logits, whole.logits[:, 2:5], atol=1e-6)
    np.testing.assert_allclose(part.hidden, whole.hidden[:, 2:5], atol=1e-6)


@pytest.mark.parametrize("layers", [1, 2])
def test_a_copied_top_on_the_tapped_states_gives_the_same_hidden_states(params, tokens, layers):
    wide, mask = padded(tokens, 2, 1)
    output = APPLY(params, wide, mask, tap=CONFIG.layers - layers, window=(3, 6))
    assert output.tapped.shape == (
        B,
        6,
        CONFIG.width,
    )  # those before the window, too: it looks back
    names = ["block_0", "block_1", "final_norm"][-layers - 1 :]
    top = {name: params[name] for name in names}
    found = MODEL.top(top, output.tapped, mask, layers=layers, window=(3, 6))
    np.testing.assert_allclose(found, output.hidden, atol=1e-6)
    other = jax.tree.map(lambda x: 2.0 * x, top)
    away = MODEL.top(other, output.tapped, mask, layers=layers, window=(3, 6))
    assert np.abs(away - output.hidden).max() > 0.1


def test_nothing_is_tapped_unless_asked_for(params, tokens):
    assert APPLY(params, tokens, tokens > 0).tapped is None


def test_a_model_made_of_two_functions_has_no_top():
    with pytest.raises(NotImplementedError, match="no upper layers"):
        Model(MODEL.init, MODEL.apply).top({}, None, None, layers=1)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("std", [0.02, 1.0])
def test_the_embeddings_start_with_the_std_given(tied, std):
    config = dataclasses.replace(CONFIG, embedding_std=std, tied=tied)
    started = make_transformer(config, 400).init(KEY)
    assert float(jnp.std(started["embedding_vd"])) == pytest.approx(std, rel=0.05)
    if not tied:  # the head's own scale does not follow
        assert float(jnp.std(started["head_vd"])) == pytest.approx(16**-0.5, rel=0.05)


@pytest.mark.parametrize("std", [0.1, 0.5, 1.0])
def test_the_input_is_the_embedding_over_its_std(params, tokens, std):
    model = make_transformer(dataclasses.replace(CONFIG, embedding_std=std), V)
    tapped = jax.jit(model.apply, static_argnames="tap")(params, tokens, tokens > 0, tap=0).tapped
    np.testing.assert_allclose(tapped, params["embedding_vd"][tokens] / std, rtol=1e-6)
    if std == 1.0:  # the plain parametrisation: the rows themselves
        np.testing.assert_array_equal(tapped, params["embedding_vd"][tokens])


def test_padding_and_bos_have_no_probability_and_the_rest_is_as_it_was():
    config = ModelConfig(layers=1, width=8, heads=2, kv_heads=1, ff_width=8)
    special = SpecialTokens(pad=0, bos=3, eos=2)
    plain, model = make_transformer(config, 6), make_language_model(config, 6, special)
    params = plain.init(jax.random.key(0))
    tokens, mask = jnp.array([[3, 4, 5, 0]]), jnp.array([[True, True, True, False]])
    both = [jax.nn.softmax(m.apply(params, tokens, mask).logits) for m in (plain, model)]
    said = jnp.array([1, 2, 4, 5])
    assert float(jnp.abs(both[1][..., jnp.array([0, 3])]).max()) == 0.0
    rest = both[0][..., said] / jnp.sum(both[0][..., said], axis=-1, keepdims=True)
    np.testing.assert_allclose(both[1][..., said], rest, rtol=1e-5)

    def loss(params):  # of padding too, masked afterwards, as the train steps do
        log_probs = log_probs_of(model.apply(params, tokens, mask).logits, tokens)
        return jnp.sum(jnp.where(jnp.array([[False, True, True, False]]), log_probs, 0.0))

    assert all(np.isfinite(g).all() for g in jax.tree.leaves(jax.grad(loss)(params)))
