"""The audit: hand-computed gradients of a tiny policy, and what must hold for any of them."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import PolicyGradientConfig
from rlhf_jax.io.params import save_params
from rlhf_jax.io.run_dir import RunDir
from rlhf_jax.models.functional import Model
from rlhf_jax.train import policy_gradient
from rlhf_jax.train.audit import audit, check_first_step, cosines, freeze
from rlhf_jax.train.audit.arms import ESTIMATORS, SURROGATES, kl_arms, kl_terms, surrogate_arms
from rlhf_jax.train.audit.gradients import Outputs, measure
from rlhf_jax.train.audit.policy import last_policy
from rlhf_jax.train.audit.steps import audited, take_steps
from rlhf_jax.train.experience import make_experience
from rlhf_jax.train.policy_loss import minibatch_loss
from rlhf_jax.train.scores import score_texts
from rlhf_jax.train.state import TrainState
from rlhf_jax.types import SpecialTokens, TextRollout

SPECIAL = SpecialTokens(pad=0, bos=1, eos=2)
SCORES = jnp.array([2.0, 0.0, 1.0, -1.0, 0.5, 0.5, 3.0, -2.0])


def choices(name):
    return set(PolicyGradientConfig.__dataclass_fields__[name].metadata["choices"])


def with_algo(config, **changes):
    return dataclasses.replace(config, algo=dataclasses.replace(config.algo, **changes))


def measured(model, config, state, batch, arms):
    numbers, gradients = jax.jit(measure, static_argnums=(0, 1, 4))(
        model, config, state, batch, tuple(arms)
    )
    return numbers, np.asarray(gradients)


def named(rows):
    return {row["name"]: row for row in rows}


# A policy whose only parameters are the logits of one token, P = (1/2, 1/4, 1/8, 1/8), and eight
# texts of one token in exactly these proportions: means over the texts are expectations.
P = np.array([0.5, 0.25, 0.125, 0.125])
Q = np.array([0.1, 0.2, 0.3, 0.4])  # the reference
TOKENS = np.array([0, 0, 0, 0, 1, 1, 2, 3])
BETA = 0.5


def apply_table(params, tokens, mask, window):
    size = (tokens.shape[0], window[1] - window[0], P.size)
    return Outputs(jnp.broadcast_to(params["row"], size))


TABLE = Model(init=lambda key: {}, apply=apply_table)


def table_audit(config, policy, scores=(0.0,) * 8):
    """An audit at `policy` of the texts that `P` gave."""
    one = jnp.ones((8, 1), bool)
    rollout = TextRollout(
        prompt_tokens=jnp.ones((8, 1), jnp.int32),
        prompt_mask=one,
        completion_tokens=jnp.asarray(TOKENS, jnp.int32)[:, None],
        completion_mask=one,
        behavior_log_probs=jnp.log(jnp.asarray(P)[TOKENS])[:, None].astype(jnp.float32),
    )
    settings = {"advantage": "no_baseline", "whiten_advantages": "none", "gamma": 1.0}
    config = with_algo(config, **settings, kl_controller="fixed", clip_eps=0.2)
    sampling = dataclasses.replace(config.sampling, temperature=1.0)
    config = dataclasses.replace(config, sampling=sampling)
    extra = {"kl_coef": BETA, "penalty_coef": 1.0, "baseline": 0.0}
    row = lambda p: {"row": jnp.log(jnp.asarray(p, jnp.float32))}
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(
        params={"policy": row(P)},
        opt_state=None,
        key=jax.random.key(0),
        update=zero,
        skipped=zero,
        skipped_in_a_row=zero,
        extra={k: jnp.float32(v) for k, v in extra.items()},
    )
    scored = score_texts(config.algo, rollout, jnp.array(scores), SPECIAL)
    model = TABLE
    batch = jax.jit(freeze, static_argnums=(0, 1))(model, config, state, scored, row(Q))
    moved = dataclasses.replace(state, params={"policy": row(policy)})
    arms = [*surrogate_arms(config.algo), *kl_arms(config.algo)]
    record = audit(model, config, moved, batch)
    gradients = lambda arms: dict(
        zip([arm.name for arm in arms], measured(model, config, moved, batch, arms)[1])
    )
    return record, gradients(kl_terms(config.algo)), gradients(arms)


def kl_gradient(p, q):
    """Of KL(p || q) in the logits of p."""
    d = np.log(p / q)
    return p * (d - np.sum(p * d))


def test_where_the_policy_sampled_k2_is_the_kls_gradient_and_k1_is_none(tiny_config):
    record, terms, _ = table_audit(tiny_config, P)
    exact = BETA * kl_gradient(P, Q)
    for name in ("loss full", "loss k2", "loss k1 x ratio", "loss k3 x ratio", "loss full x ratio"):
        np.testing.assert_allclose(terms[name], exact, atol=1e-6, err_msg=name)
    np.testing.assert_allclose(terms["reward k1"], exact, atol=1e-6)
    np.testing.assert_allclose(terms["text KL"], exact, atol=1e-6)  # there is no later token
    np.testing.assert_allclose(terms["loss k1"], 0.0, atol=1e-6)
    np.testing.assert_allclose(terms["reward full"], 0.0, atol=1e-6)  # a constant, as one state
    # k3 in the loss descends KL(q || p), the other direction.
    np.testing.assert_allclose(terms["loss k3"], BETA * (P - Q), atol=1e-6)
    rows = named(record["kl_terms"])
    assert rows["loss k1"]["cosine_token"] is None and rows["loss k1"]["grad_norm"] < 1e-6
    assert rows["loss k1"]["halves"] is None and rows["loss k2"]["halves"] is not None
    assert rows["loss k2"]["cosine_token"] == pytest.approx(1.0, abs=1e-5)
    cosine = (P - Q) @ kl_gradient(P, Q) / np.linalg.norm(P - Q) / np.linalg.norm(exact) * BETA
    assert rows["loss k3"]["cosine_token"] == pytest.approx(cosine, abs=1e-5)
    assert 0.5 < cosine < 0.99  # the control: not every estimator passes


def test_away_from_the_sampler_only_the_ratio_keeps_the_kls_gradient(tiny_config):
    moved = np.array([0.4, 0.3, 0.2, 0.1])
    record, terms, _ = table_audit(tiny_config, moved)
    exact = BETA * kl_gradient(moved, Q)
    for name in ("loss full", "loss k1 x ratio", "loss k3 x ratio"):
        np.testing.assert_allclose(terms[name], exact, atol=1e-6, err_msg=name)
    assert np.abs(terms["loss k2"] - exact).max() > 1e-2
    # k1 in the loss pushes away from the policy that sampled: E_P[grad log p] = P - p.
    np.testing.assert_allclose(terms["loss k1"], BETA * (P - moved), atol=1e-6)
    kl = {name: row["kl"] for name, row in named(record["kl_terms"]).items()}
    assert kl["reward k1"] == pytest.approx(np.sum(P * np.log(P / Q)), abs=1e-5)
    assert kl["loss full"] == pytest.approx(np.sum(moved * np.log(moved / Q)), abs=1e-5)


def test_surrogates_by_hand(tiny_config):
    moved = np.array([0.3, 0.4, 0.2, 0.1])
    scores = np.array([1.0, 1.0, 1.0, 1.0, 2.0, 2.0, -1.0, 0.0], np.float32)
    record, _, gradients = table_audit(tiny_config, moved, scores)
    each = np.eye(4)[TOKENS] - moved  # grad log p of each text
    ratio = (moved / P)[TOKENS]  # 0.6, 1.6, 1.6, 0.8
    kept = {
        "none": ratio,
        # Clipped only where the gain is beyond the range: token 1 (A > 0, r = 1.6).
        "clip": np.where(TOKENS == 1, 0.0, ratio),
        "cispo": np.minimum(ratio, 1.28),
        "reinforce": np.ones(8),
    }
    rows = named(record["arms"])
    for name, weight in kept.items():
        wanted = -np.mean(weight[:, None] * scores[:, None] * each, axis=0)
        np.testing.assert_allclose(gradients[name], wanted, atol=1e-6, err_msg=name)
        assert rows[name]["grad_norm"] == pytest.approx(np.linalg.norm(wanted), rel=1e-5)
    assert rows["clip"]["clip_fraction"] == pytest.approx(2 / 8)
    assert rows["none"]["loss"] == pytest.approx(-np.mean(ratio * scores), rel=1e-5)
    assert rows["none"]["clip_fraction"] == 0.0


@pytest.fixture(scope="module")
def case(tiny_config, bigram_model, bigram_frozen, tiny_prompts):
    """A PPO with its rollout, frozen, and the state that sampled."""
    config = with_algo(tiny_config, batch_size=8)
    # Two steps are to be a distance.
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, learning_rate=0.1))
    state = policy_gradient.init(config, bigram_frozen, jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(5), 100))
    move = lambda x: x + jax.random.normal(next(keys), x.shape)  # away from the reference
    policy = jax.tree.map(move, state.params["policy"])
    state = dataclasses.replace(state, params=state.params | {"policy": policy})
    sample = jax.jit(policy_gradient.sample, static_argnums=(0, 1, 4))
    rollout = sample(bigram_model, config, state, tiny_prompts, SPECIAL)
    scored = score_texts(config.algo, rollout, SCORES, SPECIAL)
    args = (bigram_model, config, state)
    batch = jax.jit(freeze, static_argnums=(0, 1))(*args, scored, bigram_frozen.reference)
    learn_from = jax.jit(make_experience, static_argnums=(0, 1))
    return args, batch, learn_from(*args, scored, bigram_frozen.reference)[0]


@pytest.fixture(scope="module")
def found(case):
    """The state after two steps of the update, and the audit there."""
    (model, config, state), batch, experience = case
    moved = take_steps(model, config, state, experience, 2)
    return moved, audit(model, config, moved, batch)


@pytest.fixture(scope="module")
def taken(case, found):
    """Loss and gradient of every arm and of every KL term by its name, in the audit's programs."""
    (model, config, _), batch, _ = case
    both = []
    for arms in ([*surrogate_arms(config.algo), *kl_arms(config.algo)], kl_terms(config.algo)):
        numbers, gradients = measured(model, config, found[0], batch, arms)
        losses = np.asarray(numbers["loss"])
        both.append({arm.name: pair for arm, *pair in zip(arms, losses, gradients)})
    return both


def test_every_choice_of_the_settings_has_an_arm(found):
    record = found[1]
    assert {*SURROGATES, "adaptive_kl_penalty"} == choices("surrogate")
    assert set(ESTIMATORS) == choices("kl_estimator")
    arms = [*surrogate_arms(PolicyGradientConfig()), *kl_arms(PolicyGradientConfig())]
    assert {arm.algo.kl_placement for arm in arms} == choices("kl_placement")
    assert [row["name"] for row in record["arms"]] == [arm.name for arm in arms]
    assert len({arm.name for arm in arms}) == len(arms)


def test_the_matrices_are_those_of_cosines(found):
    for matrix in (found[1]["cosines"], found[1]["kl_cosines"]):
        matrix = np.array(matrix, float)
        assert (np.diag(matrix) == 1).all() and (matrix == matrix.T).all()
        assert np.abs(matrix).max() <= 1 and np.linalg.eigvalsh(matrix).min() > -1e-4
    rows = named(found[1]["arms"])
    assert rows["clip"]["cosine"] == 1.0 and rows["none"]["cosine"] < 0.9999


def test_before_the_first_step_the_surrogates_are_one(case):
    args, batch, _ = case
    first = check_first_step(*args, batch)
    assert first["cosine"] > 1 - 1e-5 and first["length"] < 1e-4 and first["ratio_error"] < 1e-5
    assert set(SURROGATES) - set(first["arms"]) == {"gspo"}  # GAE differs within a text
    record = audit(*args, batch)
    assert 0.0 < named(record["arms"])["gspo"]["cosine"] < 0.999
    assert all(arm["clip_fraction"] == 0.0 for arm in record["arms"])


def test_a_policy_that_did_not_sample_fails_the_check(case, found):
    (model, config, _), batch, _ = case
    first = check_first_step(model, config, found[0], batch)
    assert first["cosine"] < 0.999 and first["ratio_error"] > 1e-3


def test_a_gradient_is_that_of_the_training_loss(case, found, taken):
    (model, config, _), batch, _ = case
    moved, record = found
    config = with_algo(config, kl_placement="loss", kl_estimator="k3", kl_importance=True)
    config = with_algo(config, vf_coef=0.0)
    state = dataclasses.replace(moved, params={"policy": moved.params["policy"]})
    loss = lambda params: minibatch_loss(model, config, state.extra, params, batch.experience)[0]
    value, gradient = jax.jit(jax.value_and_grad(loss))(state.params)
    wanted = np.concatenate([np.ravel(x) for x in jax.tree.leaves(gradient)])
    row = named(record["arms"])["loss k3 x ratio"]
    assert row["loss"] == pytest.approx(float(value), rel=1e-4)
    assert row["grad_norm"] == pytest.approx(np.linalg.norm(wanted), rel=1e-4)
    _, gradient = taken[0]["loss k3 x ratio"]
    np.testing.assert_allclose(gradient, wanted, atol=1e-5)


def test_in_the_loss_the_kl_term_is_what_is_added(taken):
    arms, terms = taken
    (plain_loss, plain), (loss, whole) = arms["clip"], arms["loss k2"]
    added, term = terms["loss k2"]
    np.testing.assert_allclose(whole, plain + term, atol=1e-5)
    assert loss == pytest.approx(plain_loss + added, abs=1e-5)


def test_in_the_reward_the_share_is_what_the_kl_adds_to_the_advantages(case):
    (_, config, state), batch, _ = case
    mask = np.asarray(batch.experience.learnt)
    # GAE is linear: the KL's share is that of the KL alone, before values of 0.
    old = batch.experience.rollout.behavior_log_probs
    kl = np.where(mask, old - batch.experience.ref_log_probs, 0.0)
    wanted = np.zeros(kl.shape)
    for t in reversed(range(kl.shape[1])):
        later = wanted[:, t + 1] if t + 1 < kl.shape[1] else 0.0
        wanted[:, t] = -float(state.extra["kl_coef"]) * kl[:, t] + config.algo.gae_lambda * later
    share = np.asarray(batch.advantages["share k1"] / batch.scale["k1"])
    np.testing.assert_allclose(share[mask], wanted[mask], atol=1e-4)
    # Whitening is affine, so the advantages without it have those of the score alone.
    whitened = np.asarray(batch.advantages["reward k1"])[mask]
    rest = whitened - np.asarray(batch.advantages["share k1"])[mask]
    score = np.asarray(batch.advantages["score"])[mask]
    assert np.corrcoef(rest, score)[0, 1] == pytest.approx(1.0, abs=1e-5)
    assert np.corrcoef(whitened, score)[0, 1] < 0.9995  # the control


def test_nothing_but_the_loss_differs_with_the_kl_coefficient_at_0(case):
    (model, config, state), _, _ = case
    batch = case[1]
    silent = dataclasses.replace(state, extra=state.extra | {"kl_coef": jnp.float32(0.0)})
    record = audit(model, config, silent, batch)
    rows = named(record["arms"])
    assert rows["loss k2"]["cosine"] == pytest.approx(1.0, abs=1e-5)
    assert rows["loss k2"]["grad_norm"] == pytest.approx(rows["clip"]["grad_norm"], rel=1e-4)


def test_all_steps_are_an_update(case):
    (model, config, state), _, experience = case
    count = config.algo.epochs * config.algo.minibatches
    wanted, _ = jax.jit(policy_gradient.optimize, static_argnums=(0, 1))(
        model, config, state, experience
    )
    moved = take_steps(model, config, state, experience, count)
    for ours, theirs in zip(jax.tree.leaves(moved.params), jax.tree.leaves(wanted.params)):
        np.testing.assert_allclose(np.asarray(ours), np.asarray(theirs), atol=1e-5)
    assert take_steps(model, config, state, experience, 0) is state


def test_a_run_without_a_checkpoint_gives_its_networks_and_its_coefficient(case, tmp_path):
    _, _, start = case[0]
    run = RunDir(tmp_path).create()
    policy = jax.tree.map(lambda x: x + 1.0, start.params["policy"])
    save_params(run.params("policy"), {"policy": policy})  # as of DPO: no value function
    found = last_policy(tmp_path, start)
    assert found.extra["kl_coef"] == start.extra["kl_coef"]
    rows = [{"objective/kl_coef": 0.3}, {"objective/kl_coef": None}, {"loss": 1.0}]
    run.metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = last_policy(tmp_path, start)
    assert float(found.extra["kl_coef"]) == pytest.approx(0.3)
    wanted = {"policy": policy, "value": start.params["value"]}
    same = jax.tree.map(lambda a, b: bool((a == b).all()), found.params, wanted)
    assert all(jax.tree.leaves(same))


def test_an_audit_keeps_the_size_of_the_minibatches(tiny_config):
    config = dataclasses.replace(
        tiny_config, optim=dataclasses.replace(tiny_config.optim, schedule="linear", warmup=0.1)
    )
    found = audited(config, 32)
    assert (found.algo.batch_size, found.algo.minibatches) == (32, 8)
    assert (found.optim.schedule, found.optim.warmup) == ("constant", 0.0)
    assert audited(config, 8).algo == config.algo
    assert audited(config, None).algo.batch_size == 32


@pytest.mark.parametrize("bad", [1e-6, 0.0, float("inf"), float("nan")])
def test_a_gradient_of_rounding_errors_has_no_direction(bad):
    rows = jnp.array([[1.0, 0.0], [0.0, bad], [1.0, 1.0]])
    found = np.asarray(cosines(rows))
    assert np.isnan(found[1]).all() and np.isnan(found[:, 1]).all()
    assert found[0, 2] == pytest.approx(np.sqrt(0.5)) and found[0, 0] == found[2, 2] == 1.0


@pytest.mark.parametrize("base", ["gspo", "reinforce", "adaptive_kl_penalty", "cispo"])
def test_arms_of_any_base_have_settings_of_their_own(base):
    algo = PolicyGradientConfig(surrogate=base, clip_eps=0.03, clip_eps_high=0.4)
    arms = {arm.name: arm.algo for arm in surrogate_arms(algo)}
    own = arms[base.removeprefix("adaptive_")]
    assert (own.clip_eps, own.clip_eps_high, own.surrogate) == (0.03, 0.4, base)
    assert arms["clip"].clip_eps_high is None
    assert arms["clip"].clip_eps == (0.2 if base == "gspo" else 0.03)
    assert arms["asymmetric_clip"].clip_eps_high == 0.28
    assert all(arm.algo.surrogate == base for arm in kl_arms(algo))
