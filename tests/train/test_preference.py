"""Direct preference training: the first loss, the gradient's direction, and that it learns."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import PreferenceConfig, split_dynamic
from rlhf_jax.train import one_step, preference
from rlhf_jax.train.loop import repeat
from rlhf_jax.train.preference_data import completion_sums, make_data, pair_log_probs
from rlhf_jax.train.preference_loss import batch_loss
from rlhf_jax.types import PairBatch, Sequences

KEY = jax.random.key(0)
LOSSES = ["dpo", "ipo", "hinge", "robust", "kto", "orpo", "simpo"]
FREE = ("orpo", "simpo")
BOS, GOOD, BAD, COUNT = 1, 5, 6, 8


def texts_with(token, seed):
    """Prompts of 1 to 3 tokens and completions of 3 to 5, the first of which is `token`."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(7, 12, (COUNT, 8)).astype(np.int32)
    tokens[:, 0], sizes = BOS, 1 + np.arange(COUNT) % 3
    tokens[:, 1:3] = np.random.default_rng(9).integers(7, 12, (COUNT, 2))
    tokens[np.arange(COUNT), sizes] = token
    mask = np.arange(8)[None] < sizes[:, None] + rng.integers(3, 6, (COUNT, 1))
    return Sequences(tokens=jnp.asarray(tokens), mask=jnp.asarray(mask))


@pytest.fixture(scope="module")
def pairs():
    """Completions that begin with a 5 are preferred to those that begin with a 6."""
    return PairBatch(
        chosen=texts_with(GOOD, 0),
        rejected=texts_with(BAD, 1),
        margin=jnp.zeros(COUNT),
        prompt_length=jnp.asarray(1 + np.arange(COUNT) % 3, jnp.int32),
    )


def with_algo(tiny_config, **algo):
    settings = {"updates": 30, "batch_size": COUNT, "beta": 0.5} | algo
    optim = dataclasses.replace(tiny_config.optim, learning_rate=0.01)
    return dataclasses.replace(tiny_config, algo=PreferenceConfig(**settings), optim=optim)


@pytest.fixture(scope="module")
def network(tiny_model, tiny_frozen, bigram_model, bigram_frozen):
    """`network(loss)`: a model and its reference; but for DPO one that compiles quickly."""
    made = {"dpo": (tiny_model, tiny_frozen)}
    return lambda loss: made.get(loss, (bigram_model, bigram_frozen))


@pytest.fixture(scope="module")
def stage(tiny_config, network, pairs):
    """`stage(loss, **algo)`: the compiled run, its first state, its data and its numbers."""
    compiled = {}

    def make(loss, **algo):
        config = with_algo(tiny_config, loss=loss, **algo)
        static, hparams = split_dynamic(config)
        model, frozen = network(loss)
        if static not in compiled:
            step = preference.make_train_step(model, static)
            run = jax.jit(repeat(step))
            data = jax.jit(make_data(model, loss))(frozen.reference, pairs)
            compiled[static] = (run, data)
        run, data = compiled[static]
        return run, one_step.init(config, frozen, KEY), data, numbers(hparams)

    return make


def numbers(hparams):
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(type(x))), hparams)


def first(stage, loss, **algo):
    run, state, data, hparams = stage(loss, **algo)
    return jax.tree.map(float, run(state, data, hparams, jnp.int32(1))[1])


def test_the_policy_starts_at_the_reference(stage, tiny_frozen):
    _, state, _, _ = stage("dpo")
    assert state.params.keys() == {"policy"}
    chex.assert_trees_all_equal(state.params["policy"], tiny_frozen.reference)


@pytest.mark.parametrize(
    "loss, expected",
    # With the policy at the reference: -log 1/2, (1 / 2 beta)^2, 1, -log 1/2, 1 - sigmoid(0).
    [("dpo", np.log(2)), ("ipo", 1.0), ("hinge", 1.0), ("robust", np.log(2)), ("kto", 0.5)],
)
def test_the_first_loss_is_that_of_equal_models(stage, loss, expected):
    metrics = first(stage, loss)
    assert metrics["loss"] == pytest.approx(expected, abs=1e-4)
    for name in ("chosen", "rejected", "margins"):
        assert metrics[f"rewards/{name}"] == pytest.approx(0.0, abs=1e-4)
    assert metrics["grad_norm"] > 1e-3 and metrics["lr"] == pytest.approx(0.01)


@pytest.mark.parametrize("loss", FREE)
def test_losses_without_a_reference_read_the_means(stage, network, pairs, loss):
    sides = (pairs.chosen, pairs.rejected)
    model, frozen = network(loss)
    sums = jax.jit(lambda t: completion_sums(model, frozen.reference, t, sizes)[1])
    sizes = pairs.prompt_length
    good, bad = (np.asarray(sums(side), np.float64) for side in sides)
    metrics = first(stage, loss, margin=0.25)
    assert metrics["logps/chosen"] == pytest.approx(good.mean(), abs=1e-4)
    assert metrics["rewards/rejected"] == pytest.approx(0.5 * bad.mean(), abs=1e-4)
    softplus = lambda x: np.log1p(np.exp(-x))
    if loss == "simpo":
        expected = softplus(0.5 * (good - bad) - 0.25).mean()
    else:
        odds = lambda x: x - np.log1p(-np.exp(x))
        expected = -good.mean() + 0.5 * softplus(odds(good) - odds(bad)).mean()
        assert metrics["nll_loss"] == pytest.approx(-good.mean(), abs=1e-4)
    assert metrics["loss"] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("loss", LOSSES)
def test_it_learns_the_preference(stage, network, loss):
    run, state, data, hparams = stage(loss)
    hparams["optim"] |= {"learning_rate": jnp.float32(0.05)}
    before = {"rewards/margins": 0.0} if loss not in FREE else first(stage, loss)
    state, _ = run(state, data, hparams, jnp.int32(29))
    state, last = run(state, data, hparams, jnp.int32(1))
    assert float(last["rewards/margins"]) > before["rewards/margins"] + 0.3
    assert float(last["rewards/accuracies"]) == 1.0
    assert int(state.update) == 30 and int(state.skipped) == 0
    evaluate = jax.jit(preference.make_evaluate(network(loss)[0], loss, batch_size=3))
    assert float(evaluate(state.params, data)) == 1.0


def swapped(data):
    pairs = data.pairs
    pairs = dataclasses.replace(pairs, chosen=pairs.rejected, rejected=pairs.chosen)
    return dataclasses.replace(
        data, pairs=pairs, ref_chosen=data.ref_rejected, ref_rejected=data.ref_chosen
    )


def test_evaluation_is_the_share_ranked_right_and_a_tie_counts_half(stage, tiny_model):
    run, start, data, hparams = stage("dpo")
    evaluate = jax.jit(preference.make_evaluate(tiny_model, "dpo", batch_size=3))
    assert 0.0 <= float(evaluate(start.params, data)) <= 1.0
    state, _ = run(start, swapped(data), hparams, jnp.int32(29))
    assert float(evaluate(state.params, data)) == 0.0  # it has learnt the opposite
    same = dataclasses.replace(data.pairs, rejected=data.pairs.chosen)
    tied = dataclasses.replace(data, pairs=same, ref_rejected=data.ref_chosen)
    assert float(evaluate(state.params, tied)) == 0.5


def test_the_gradient_at_the_reference_raises_chosen_and_lowers_rejected(
    stage, tiny_config, tiny_model
):
    _, state, data, _ = stage("dpo")
    algo = with_algo(tiny_config).algo
    loss = lambda params: batch_loss(tiny_model, algo, params, data)[0]

    def margin(params):
        chosen, rejected = pair_log_probs(tiny_model, params["policy"], data.pairs)
        return jnp.mean(chosen - rejected)

    found, slope = (jax.jit(jax.grad(f))(state.params) for f in (loss, margin))
    expected = jax.tree.map(lambda x: -0.5 * algo.beta * x, slope)  # -beta sigmoid(0)
    chex.assert_trees_all_close(found, expected, atol=1e-4, rtol=1e-3)


def test_the_kl_of_kto_is_that_of_mismatched_texts_and_a_constant(stage, tiny_config, network):
    _, _, data, _ = stage("kto")
    model, frozen = network("kto")
    moved = {"policy": jax.tree.map(lambda x: 1.1 * x, frozen.reference)}
    algo = with_algo(tiny_config, loss="kto").algo
    other = data.mismatched
    pair = jax.jit(lambda pairs: pair_log_probs(model, moved["policy"], pairs))
    refs = (other.ref_chosen, other.ref_rejected)
    ratio = np.mean([a - b for a, b in zip(pair(other.pairs), refs)])
    for estimate in (2.0, -2.0):  # a divergence is never negative, so the second counts as 0
        shift = ratio - estimate
        ref = dataclasses.replace(
            other, ref_chosen=other.ref_chosen + shift, ref_rejected=other.ref_rejected + shift
        )
        batch = dataclasses.replace(data, mismatched=ref)
        check_kto(model, algo, moved, batch, max(estimate, 0.0), pair(data.pairs))


def check_kto(model, algo, params, batch, kl, log_probs):
    loss = lambda params: batch_loss(model, algo, params, batch)
    (found, metrics), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert float(metrics["kl"]) == pytest.approx(kl, abs=1e-4)
    sigmoid = lambda x: 1 / (1 + np.exp(-x))
    good, bad = (np.asarray(a) for a in log_probs)
    terms = (
        sigmoid(0.5 * (kl - good + batch.ref_chosen)),
        sigmoid(0.5 * (bad - batch.ref_rejected - kl)),
    )
    assert float(found) == pytest.approx(float(np.mean(terms)), abs=1e-4)

    def constant(params):
        """The same with the number in the place of the estimate."""
        chosen, rejected = pair_log_probs(model, params["policy"], batch.pairs)
        above = jax.nn.sigmoid(0.5 * (kl - chosen + batch.ref_chosen))
        below = jax.nn.sigmoid(0.5 * (rejected - batch.ref_rejected - kl))
        return jnp.mean(jnp.concatenate([above, below]))

    expected = jax.jit(jax.grad(constant))(params)
    chex.assert_trees_all_close(gradient, expected, atol=1e-4, rtol=1e-3)


def test_the_weights_of_kto_scale_either_half(stage):
    both, good, bad = (
        first(stage, "kto", desirable_weight=a, undesirable_weight=b)["loss"]
        for a, b in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0))
    )
    assert both == pytest.approx(good + bad) and good == pytest.approx(0.25, abs=1e-4)


def test_new_numbers_are_used_without_another_trace(stage):
    run, state, data, _ = stage("dpo")
    losses = set()
    for algo in ({"beta": 0.5}, {"beta": 2.0}, {"beta": 2.0, "label_smoothing": 0.2}):
        hparams = stage("dpo", **algo)[3]
        losses.add(round(float(run(state, data, hparams, jnp.int32(3))[1]["loss"]), 5))
    assert len(losses) == 3 and run._cache_size() == 1


def test_batches_are_drawn_by_update_from_the_states_key(stage):
    run, state, data, hparams = stage("hinge", batch_size=3)
    chosen = lambda s: float(run(s, data, hparams, jnp.int32(1))[1]["logps/chosen"])
    later = dataclasses.replace(state, update=state.update + 1)
    assert chosen(state) == chosen(state) != chosen(later)
    assert chosen(dataclasses.replace(state, key=jax.random.key(1))) != chosen(state)


def test_a_step_that_is_not_finite_is_skipped(stage):
    run, state, data, hparams = stage("dpo")
    bad = dataclasses.replace(data, ref_chosen=data.ref_chosen.at[0].set(jnp.nan))
    after, _ = run(state, bad, hparams, jnp.int32(2))
    assert int(after.skipped) == int(after.update) == 2
    chex.assert_trees_all_equal(after.params, state.params)
