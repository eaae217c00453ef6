"""The recursion against all texts of tiny instances, listed one by one."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.stats import chi2

from rlhf_jax.config import AutomatonConfig
from rlhf_jax.tasks.automaton.horizon import (
    envelope,
    policy_table,
    reference_entropy,
    tilt_horizon,
)
from rlhf_jax.tasks.automaton.instance import make_instance
from rlhf_jax.tasks.automaton.texts import draw_texts, log_probs, policy_gap
from rlhf_jax.tasks.automaton.walk import make_walk, read, reviews_walk
from rlhf_jax.tasks.reviews.films import film_grammar
from rlhf_jax.tasks.reviews.grammar import START
from rlhf_jax.tasks.reviews.optimum import tilt
from rlhf_jax.tasks.reviews.sampler import draw_openings
from rlhf_jax.tasks.tokens import EOS, PAD

V, T, K = 3, 4, 3
TINY = [
    AutomatonConfig(letters=V, length=T, states=3, num_prompts=K, instance=i, order=order)
    for i, order in ((0, 1), (1, 1), (2, 2))
]
EXACT = {"rtol": 0, "atol": 1e-10}


def _follow(instance, tokens):
    """(probability, reward) of one text after its prompt, read from the tables alone."""
    chain, machine = instance.grammar, instance.machine
    state, box, prob, reward = START, 0, 1.0, 0.0
    for i, token in enumerate(tokens):
        if i >= instance.walk.prompts.shape[1]:
            prob *= chain.probs[state, token]
            reward += float(machine.reward[box, token])
        state, box = chain.next_state[state, token], machine.next_state[box, token]
    return prob, reward


@pytest.fixture(scope="module", params=TINY, ids=lambda c: f"order{c.order}-{c.instance}")
def tiny(request):
    """An instance with all V^T completions of each prompt: p and r are [K, V^T]."""
    instance = make_instance(request.param)
    ends = np.array(list(itertools.product(range(3, 3 + V), repeat=T)))
    texts = [[[*prompt, *end] for end in ends] for prompt in instance.walk.prompts]
    found = np.array([[_follow(instance, text) for text in group] for group in texts])
    return SimpleNamespace(
        instance=instance,
        walk=instance.walk,
        width=instance.walk.prompts.shape[1],
        texts=np.array(texts, np.int32),
        p=found[..., 0],
        r=found[..., 1],
    )


def _tilted(tiny, eta):
    weight = tiny.p * np.exp(eta * tiny.r)
    z = weight.sum(axis=1, keepdims=True)
    return weight / z, np.log(z[:, 0])


def test_the_listing_is_whole_and_the_reward_has_its_mean_and_deviation(tiny):
    np.testing.assert_allclose(tiny.p.sum(axis=1), 1, **EXACT)
    mean = (tiny.p * tiny.r).sum(axis=1)
    variance = (tiny.p * (tiny.r - mean[:, None]) ** 2).sum(axis=1)
    assert mean.mean() == pytest.approx(0, abs=1e-6)
    assert variance.mean() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("eta", [-0.5, 0.0, 0.8, 4.0])
def test_the_optimum_of_each_prompt(tiny, eta):
    solved, at = tilt_horizon(tiny.walk, eta), (0, tiny.walk.starts)
    best, log_z = _tilted(tiny, eta)
    mean = (best * tiny.r).sum(axis=1)
    np.testing.assert_allclose(solved.log_z[at], log_z, **EXACT)
    np.testing.assert_allclose(solved.reward[at], mean, **EXACT)
    variance = (best * (tiny.r - mean[:, None]) ** 2).sum(axis=1)
    np.testing.assert_allclose(solved.variance[at], variance, **EXACT)
    kl = (best * np.log(best / tiny.p)).sum(axis=1)
    np.testing.assert_allclose(solved.kl[at], kl, **EXACT)
    if eta:  # J* = E[r] - beta KL
        np.testing.assert_allclose(solved.value[at], mean - kl / eta, **EXACT)
    else:
        np.testing.assert_allclose(solved.value[at], mean, **EXACT)


def test_a_wrong_horizon_or_time_shows(tiny):
    eta, starts = 2.5, tiny.walk.starts
    _, log_z = _tilted(tiny, eta)
    for horizon in (T - 1, T + 1):
        wrong = tilt_horizon(tiny.walk._replace(horizon=horizon), eta)
        assert np.abs(wrong.log_z[0, starts] - log_z).max() > 0.1
    assert np.abs(tilt_horizon(tiny.walk, eta).log_z[1, starts] - log_z).max() > 0.1


def test_values_and_policy_after_every_beginning(tiny):
    """V*_t and pi* at each prefix are conditional sums over its completions."""
    eta = 1.3
    solved = tilt_horizon(tiny.walk, eta)
    best, _ = _tilted(tiny, eta)
    for t in range(T):
        table = policy_table(tiny.walk, solved, t, 3 + V)
        cut = tiny.width + t
        heads = tiny.texts[:, :: V ** (T - t), :cut].reshape(-1, cut)
        state = read(tiny.walk, heads, tiny.width).end
        paid = np.array([_follow(tiny.instance, head)[1] for head in heads])
        prob = np.array([_follow(tiny.instance, head)[0] for head in heads])
        weight = (tiny.p * np.exp(eta * tiny.r)).reshape(len(heads), -1)
        log_z = np.log(weight.sum(axis=1) / prob) - eta * paid
        np.testing.assert_allclose(solved.log_z[t, state], log_z, **EXACT)
        assert np.abs(solved.log_z[t + 1, state] - log_z).max() > 1e-3  # a step too late
        mass = best.reshape(len(heads), V, -1).sum(axis=2)
        policy = mass / mass.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(table[state, 3:], policy, **EXACT)
        assert (table[state, :3] == 0).all()


def test_log_probs_of_texts_under_both_and_of_beginnings(tiny):
    eta = 1.3
    texts = read(tiny.walk, tiny.texts.reshape(K * V**T, -1), tiny.width)
    np.testing.assert_allclose(texts.reward.reshape(K, -1), tiny.r, **EXACT)
    for eta in (0.0, 1.3):
        found = log_probs(tilt_horizon(tiny.walk, eta), texts).reshape(K, -1)
        np.testing.assert_allclose(found, np.log(_tilted(tiny, eta)[0]), **EXACT)
    heads = tiny.texts[:, :: V**2, : tiny.width + T - 2].reshape(-1, tiny.width + T - 2)
    found = log_probs(tilt_horizon(tiny.walk, eta), read(tiny.walk, heads, tiny.width))
    mass = _tilted(tiny, eta)[0].reshape(len(heads), -1).sum(axis=1)
    np.testing.assert_allclose(found, np.log(mass), **EXACT)


def test_padding_moves_nothing_and_impossible_tokens_have_no_probability(tiny):
    whole = tiny.texts[0, :5]
    left, right = (np.pad(whole, ((0, 0), pad)) for pad in ((3, 0), (0, 2)))
    plain = read(tiny.walk, whole, tiny.width)
    for padded, width in ((left, tiny.width + 3), (right, tiny.width)):
        for a, b in zip(read(tiny.walk, padded, width), plain, strict=True):
            np.testing.assert_array_equal(a, b)
    broken = whole.copy()
    broken[0, -2], broken[1, -1] = EOS, 3 + V
    assert (np.isinf(read(tiny.walk, broken, tiny.width).log_prob) == [1, 1, 0, 0, 0]).all()


def test_the_envelope_is_the_tilt_and_nothing_is_above_it(tiny):
    etas = np.array([0.0, 1e-3, 0.5, 2.0, 6.0])
    found = envelope(tiny.walk, etas)
    for i, eta in enumerate(etas):
        best, _ = _tilted(tiny, eta)
        kl = (best * np.log(best / tiny.p)).sum(axis=1).mean()
        assert found.kl[i] == pytest.approx(kl, abs=1e-10)
        assert found.reward[i] == pytest.approx((best * tiny.r).sum(axis=1).mean(), abs=1e-10)
    rise = (found.reward[1] - found.reward[0]) / np.sqrt(found.kl[1])
    assert rise == pytest.approx(np.sqrt(2 * found.variance[0]), rel=5e-3)
    rng = np.random.default_rng(0)
    slack = []
    for _ in range(300):  # for every eta the line of slope 1 / eta touches the envelope from above
        policy = rng.dirichlet(np.full(V**T, rng.choice([0.1, 1.0])), K) + 1e-12
        policy *= np.exp(rng.uniform(0, 3) * tiny.r)
        policy /= policy.sum(axis=1, keepdims=True)
        kl = (policy * np.log(policy / tiny.p)).sum(axis=1).mean()
        value = (policy * tiny.r).sum(axis=1).mean() - kl / etas[1:]
        slack.append(found.reward[1:] - found.kl[1:] / etas[1:] - value)
    assert np.min(slack) > 0


def test_the_entropy_of_the_reference(tiny):
    entropy = -(tiny.p * np.log(tiny.p)).sum(axis=1)
    np.testing.assert_allclose(reference_entropy(tiny.walk), entropy, **EXACT)


def _chi_square(counts, probs):
    """p-value of counts against probabilities; rare texts share a cell."""
    order = np.argsort(probs)
    counts, expected = counts[order], counts.sum() * probs[order]
    cell = np.minimum(np.cumsum(expected) // 10, 40).astype(int)
    seen, mean = (np.bincount(cell, x) for x in (counts, expected))
    seen, mean = seen[mean > 0], mean[mean > 0]
    return chi2.sf(((seen - mean) ** 2 / mean).sum(), len(mean) - 1)


@pytest.mark.parametrize("eta", [0.0, 1.3])
def test_samples_are_of_the_distribution_they_should_be(tiny, eta):
    which = np.repeat(np.arange(K), 4000)
    drawn = draw_texts(tiny.walk, tilt_horizon(tiny.walk, eta), which, np.random.default_rng(0))
    np.testing.assert_array_equal(drawn[:, : tiny.width], tiny.walk.prompts[which])
    code = ((drawn[:, tiny.width :] - 3) @ (V ** np.arange(T)[::-1])).reshape(K, -1)
    for k in range(K):
        counts = np.bincount(code[k], minlength=V**T)
        assert _chi_square(counts, _tilted(tiny, eta)[0][k]) > 1e-3
        assert _chi_square(counts, _tilted(tiny, eta - 0.7)[0][k]) < 1e-6


def test_the_gap_is_unbiased_with_an_honest_error(tiny):
    rng, beta, batches, size = np.random.default_rng(1), 0.4, 1500, 60
    policy = rng.dirichlet(np.full(V**T, 0.3), K) + 1e-9
    policy /= policy.sum(axis=1, keepdims=True)
    best, log_z = _tilted(tiny, 1 / beta)
    kl = (policy * np.log(policy / best)).sum(axis=1).mean()
    value = (policy * (tiny.r - beta * np.log(policy / tiny.p))).sum(axis=1).mean()
    assert beta * log_z.mean() - value == pytest.approx(beta * kl, abs=1e-10)  # A2
    solved, found = tilt_horizon(tiny.walk, 1 / beta), []
    for _ in range(batches):
        pick = np.stack([rng.choice(V**T, size // K, p=row) for row in policy])
        rows = np.take_along_axis(tiny.texts, pick[..., None], axis=1).reshape(size, -1)
        logs = np.log(np.take_along_axis(policy, pick, axis=1)).reshape(-1)
        found.append(policy_gap(tiny.walk, solved, rows, logs, tiny.width))
    found = np.array(found)  # [batches, 5]
    spread = found.std(axis=0, ddof=1)
    error = spread / np.sqrt(batches)
    assert abs(found[:, 0].mean() - value) < 4 * error[0]
    assert abs(found[:, 1].mean() - beta * kl) < 4 * error[1]
    assert abs(found[:, 3].mean() - kl) < 4 * error[3]
    # As many texts of each prompt vary less than the error, which is that of prompts at random.
    assert 0.75 * found[:, 2].mean() < spread[1] < 1.05 * found[:, 2].mean()
    np.testing.assert_allclose(found[:, 4], found[:, 2] / beta, **EXACT)
    late = solved.value[1, tiny.walk.starts].mean() - found[:, 0].mean()  # V* a step too late
    alone = log_z.mean() * beta - (policy * tiny.r).sum(axis=1).mean()  # no KL
    assert min(abs(late - beta * kl), abs(alone - beta * kl)) > 10 * error[1]


def test_the_gap_of_the_optimum_is_nothing_and_refuses_what_is_no_whole_text(tiny):
    solved = tilt_horizon(tiny.walk, 2.0)
    drawn = draw_texts(tiny.walk, solved, np.arange(40) % K, np.random.default_rng(2))
    logs = log_probs(solved, read(tiny.walk, drawn, tiny.width))
    found = policy_gap(tiny.walk, solved, drawn, logs, tiny.width)
    np.testing.assert_allclose(found[1:], 0, atol=1e-10)
    with pytest.raises(ValueError, match="must end, or have 4"):
        policy_gap(tiny.walk, solved, drawn[:, :-1], logs, tiny.width)
    longer = np.pad(drawn, ((0, 0), (0, 1)), constant_values=3)
    with pytest.raises(ValueError, match="of 5 tokens; the walk has 4"):
        policy_gap(tiny.walk, solved, longer, logs, tiny.width)
    with pytest.raises(ValueError, match="beta above 0"):
        policy_gap(tiny.walk, tilt_horizon(tiny.walk, 0.0), drawn, logs, tiny.width)
    drawn[3, -1] = EOS
    assert policy_gap(tiny.walk, solved, drawn, logs, tiny.width).gap == np.inf


def test_a_prompt_that_cannot_be_written_is_refused(tiny):
    prompts = tiny.walk.prompts.copy()
    prompts[1, -1] = EOS
    with pytest.raises(ValueError, match="prompt"):
        make_walk(tiny.instance.grammar, [tiny.instance.machine], prompts, T)


def test_reviews_are_such_a_walk():
    openings = draw_openings(film_grammar(), 32, (2, 6), np.random.default_rng(6))
    walk = reviews_walk(openings)
    solved, forever = tilt_horizon(walk, 0.7), tilt(walk.joint, 0.7)
    for name in ("log_z", "reward", "kl"):
        ours, known = getattr(solved, name)[0, walk.starts], getattr(forever, name)[walk.starts]
        np.testing.assert_allclose(ours, known, rtol=0, atol=1e-9)
    drawn = draw_texts(walk, solved, np.arange(32), np.random.default_rng(0))
    ends = (drawn == EOS).sum(axis=1)
    assert (ends == 1).all() and (drawn == PAD).any()
    logs = log_probs(solved, read(walk, drawn, openings.shape[1]))
    np.testing.assert_allclose(policy_gap(walk, solved, drawn, logs, 7)[1:], 0, atol=1e-9)
    short = tilt_horizon(walk._replace(horizon=8), 0.7)
    assert np.abs(short.log_z[0] - forever.log_z)[walk.starts].max() > 1e-2
