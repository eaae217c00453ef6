"""Fact A12: where PPO is the policy gradient, where it lets go, and that it promises less."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.losses.policy_gradient import no_clip_loss
from rlhf_jax.losses.ppo import clip_fraction, ppo_clip_loss

from .tabular import (
    QUICK,
    bandit,
    batch_loss,
    expected,
    other,
    probabilities,
    same,
    score_functions,
    settings,
    softmax,
    tree,
)

RNG = np.random.default_rng(7)
SPACE = tree(3, 3, eos=2)
TABLE = RNG.normal(size=(13, 3))
REWARD = RNG.normal(size=15)
AWAY = TABLE + 0.8 * RNG.normal(size=(13, 3))
SURROGATES = {
    name: {"surrogate": name}
    for name in ("clip", "dual_clip", "none", "log_clip", "cispo", "reinforce")
}
SURROGATES["asymmetric_clip"] = {"surrogate": "asymmetric_clip", "clip_eps_high": 0.28}
SURROGATES["kl_penalty"] = {"surrogate": "kl_penalty"}
SURROGATES["gspo"] = {"surrogate": "gspo", "aggregation": "sequence_mean", "clip_eps": 3e-4}
RATIO_FREE = ("reinforce",)


def vanilla(weights):
    """The descent direction `-sum_y p(y) w(y) grad log p(y)` of the policy itself."""
    p = probabilities(SPACE, TABLE)
    return -((p * weights) @ score_functions(SPACE, TABLE)).reshape(TABLE.shape)


@pytest.mark.parametrize("name", SURROGATES)
def test_in_the_first_minibatch_every_surrogate_is_the_policy_gradient(name, float64):
    config = settings(**SURROGATES[name])
    weights = REWARD / SPACE.lengths if name == "gspo" else REWARD
    found = lambda sampler: expected(
        config, SPACE, REWARD, TABLE, TABLE, coef=1.0, sampler=sampler, watch=True
    )
    _, gradient, metrics = found(TABLE)
    same(gradient, vanilla(weights))
    other(gradient, -vanilla(weights))
    same(metrics["policy/clipfrac_avg"], 0.0, atol=0.0)
    same(metrics["policy/approxkl_avg"], 0.0)
    same(metrics["val/ratio"], 1.0)
    same(metrics["val/ratio_max"], 1.0)
    _, gradient, metrics = found(AWAY)  # log-probabilities of another policy: refused
    other(gradient, vanilla(weights))
    other(metrics["policy/approxkl_avg"], 0.0)
    other(metrics["val/ratio"], 1.0)
    if name not in (*RATIO_FREE, "none", "kl_penalty"):
        other(metrics["policy/clipfrac_avg"], 0.0, by=0.1)


def undetached(estimator):
    """The gradient with the policy that sampled a function of the parameters, as in one program."""
    config = settings(kl_placement="reward", kl_estimator=estimator)
    rows = (x[:, None] for x in (SPACE.tokens, SPACE.mask, REWARD))
    arrays = [jnp.asarray(x) for x in rows]
    coef, ref, p = jnp.asarray(0.5), jnp.asarray(AWAY), jnp.asarray(probabilities(SPACE, TABLE))

    def mean(table):
        one = lambda *batch: batch_loss(config, table, table, ref, coef, *batch)[0]
        return jnp.sum(p * jax.vmap(one)(*arrays))

    return np.asarray(jax.jit(jax.grad(mean), compiler_options=QUICK)(jnp.asarray(TABLE)))


def kl_in_reward(estimator):
    """Of each text [15]: the log-ratios of its tokens, or the whole KL at each of its prefixes."""
    if estimator == "k1":
        return np.log(probabilities(SPACE, TABLE) / probabilities(SPACE, AWAY))
    p, q = softmax(TABLE), softmax(AWAY)
    of_prefix = np.sum(p * np.log(p / q), axis=1)
    return np.where(SPACE.mask, of_prefix[SPACE.nodes], 0.0).sum(axis=1)


@pytest.mark.parametrize("estimator", ["k1", "full"])
def test_what_was_sampled_is_a_constant_to_the_gradient(estimator, float64, monkeypatch):
    wanted = vanilla(REWARD - 0.5 * kl_in_reward(estimator))
    same(undetached(estimator), wanted)
    monkeypatch.setattr(jax.lax, "stop_gradient", lambda x: x)  # forgotten: refused
    other(undetached(estimator), wanted)


LOW, HIGH = 0.2, 0.3
RATIOS, ADVANTAGES = (
    x.ravel() for x in np.meshgrid(np.geomspace(0.05, 20.0, 61), [-3.0, -1.0, -0.1, 0.1, 1.0, 3.0])
)


def ours(log_ratio, advantage):
    zero = jnp.zeros_like(log_ratio)
    return ppo_clip_loss(log_ratio, zero, advantage, clip_low=LOW, clip_high=HIGH)


def clipped_only(log_ratio, advantage):
    """What forgets the minimum: the clipped term whatever the sign."""
    return -advantage * jnp.clip(jnp.exp(log_ratio), 1 - LOW, 1 + HIGH)


def optimist(log_ratio, advantage):
    """The larger of the two objectives in place of the smaller."""
    ratio = jnp.exp(log_ratio)
    return -advantage * jnp.maximum(ratio, jnp.clip(ratio, 1 - LOW, 1 + HIGH))


def one_sided(log_ratio, advantage):
    """Blind to the sign of the advantage: the smaller ratio, which is right only for gains."""
    ratio = jnp.exp(log_ratio)
    return -advantage * jnp.minimum(ratio, jnp.clip(ratio, 1 - LOW, 1 + HIGH))


def lets_go(loss):
    slope = jax.grad(lambda d: jnp.sum(loss(d, jnp.asarray(ADVANTAGES))))
    return np.asarray(jax.jit(slope, compiler_options=QUICK)(jnp.log(jnp.asarray(RATIOS)))) == 0.0


def test_the_gradient_is_gone_exactly_where_a_gain_is_past_the_range(float64):
    gone = ((ADVANTAGES > 0) & (RATIOS > 1 + HIGH)) | ((ADVANTAGES < 0) & (RATIOS < 1 - LOW))
    assert 0.2 < gone.mean() < 0.8
    assert np.array_equal(lets_go(ours), gone)
    for broken in (clipped_only, optimist, one_sided):
        assert not np.array_equal(lets_go(broken), gone)
    args = jnp.log(jnp.asarray(RATIOS)), jnp.zeros(RATIOS.size), jnp.asarray(ADVANTAGES)
    found = clip_fraction(*args, clip_low=LOW, clip_high=HIGH)
    assert np.array_equal(np.asarray(found) == 1.0, gone)
    swapped = clip_fraction(*args, clip_low=HIGH, clip_high=LOW)
    assert not np.array_equal(np.asarray(swapped) == 1.0, gone)


def test_it_promises_no_more_than_the_unclipped_surrogate(float64):
    args = jnp.log(jnp.asarray(RATIOS)), jnp.asarray(ADVANTAGES)
    promised = -np.asarray(no_clip_loss(args[0], jnp.zeros(RATIOS.size), args[1]))
    same(promised, ADVANTAGES * RATIOS)
    assert np.all(-np.asarray(ours(*args)) <= promised + 1e-12)
    assert np.any(-np.asarray(ours(*args)) < promised - 0.1)
    for broken in (clipped_only, optimist):
        assert not np.all(-np.asarray(broken(*args)) <= promised + 1e-12)


ARMS = bandit(6)
OLD = np.log(RNG.dirichlet(np.full(6, 3.0)))[None]
GAINS = np.array([1.0, 0.5, 0.15, -0.2, -0.6, -1.0])
GAINS = GAINS - softmax(OLD[0]) @ GAINS  # advantages of the old policy
ALPHAS = np.linspace(0.0, 1.4, 29)


def along_the_line(surrogate):
    """Objective and its slope at `old + alpha (new - old)`, exact under the old policy."""
    config, values, slopes = settings(surrogate=surrogate), [], []
    for alpha in ALPHAS:
        table = OLD + alpha * 0.6 * GAINS
        value, gradient, _ = expected(config, ARMS, GAINS, table, OLD, sampler=OLD)
        values.append(-value)
        slopes.append(-float(np.sum(gradient * 0.6 * GAINS)))
    return np.array(values), np.array(slopes)


def peaks_inside(values):
    best = values.argmax()
    return 0 < best < len(values) - 1 and values[best] > values[-1] + 1e-3


def test_on_a_line_the_clipped_objective_peaks_and_the_other_rises(float64):
    """Figure 2 of Schulman et al. 2017, arXiv:1707.06347, with every term exact."""
    (clip, clip_slope), (free, free_slope) = map(along_the_line, ("clip", "none"))
    p = lambda alpha: softmax(OLD[0] + alpha * 0.6 * GAINS)
    same(free, [p(alpha) @ GAINS for alpha in ALPHAS])  # the importance weights at work
    same(clip[0], free[0])
    same(clip[0], 0.0)
    same(clip_slope[0], free_slope[0])
    other(clip_slope[-1], free_slope[-1])
    assert np.all(clip <= free + 1e-12)
    assert np.all(np.diff(free) > 0) and not peaks_inside(free)
    assert peaks_inside(clip) and not np.all(np.diff(clip) > 0)
