"""Policies that are tables, and what the training loss says of them on average.

All completions of a small tree are written down, so an expectation is a sum. What is ours (the
experience, the loss and its gradient) is called as training calls it; everything a test compares it
with is plain numpy.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import PolicyGradientConfig, RLHFConfig, SamplingConfig
from rlhf_jax.models.functional import Model
from rlhf_jax.train.experience import make_experience
from rlhf_jax.train.policy_loss import minibatch_loss
from rlhf_jax.train.scores import Scored
from rlhf_jax.train.state import TrainState
from rlhf_jax.types import TextRollout

EXACT = 1e-9
# For programs that run for a millisecond: they compile in a quarter of the time.
QUICK = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}


def same(found, wanted, atol=EXACT):
    """The one assertion of these tests."""
    assert np.isfinite(found).all() and np.isfinite(wanted).all()
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=0, atol=atol)


def other(found, wanted, by=1e-3):
    """The same assertion refuses a broken variant, by a million times its tolerance."""
    found, wanted = np.broadcast_arrays(np.asarray(found), np.asarray(wanted))
    assert np.isfinite(found).all() and np.isfinite(wanted).all()  # not refused for being broken
    with pytest.raises(AssertionError):
        same(found, wanted, atol=by)


class Space(NamedTuple):
    """Every completion of a tree of `vocab` tokens a slot, and where in the tree each token is."""

    vocab: int
    tokens: np.ndarray  # int32 [N, T], 0 after the end
    mask: np.ndarray  # bool [N, T], True up to and with the end
    nodes: np.ndarray  # [N, T], row of the table that gives the token

    @property
    def rows(self):
        return sum(self.vocab**t for t in range(self.tokens.shape[1]))

    @property
    def lengths(self):
        return self.mask.sum(axis=1)


def tree(vocab, depth, eos=None):
    """All completions of `depth` tokens, or of fewer if they end with `eos`."""
    texts = [()]
    for _ in range(depth):
        grow = lambda text: (
            [text] if text and text[-1] == eos else [(*text, a) for a in range(vocab)]
        )
        texts = [longer for text in texts for longer in grow(text)]
    tokens, mask = np.zeros((len(texts), depth), np.int32), np.zeros((len(texts), depth), bool)
    nodes = np.zeros((len(texts), depth), int)
    for i, text in enumerate(texts):
        node = 0
        for t, a in enumerate(text):
            tokens[i, t], mask[i, t], nodes[i, t] = a, True, node
            node = node * vocab + a + 1
    return Space(vocab, tokens, mask, nodes)


def bandit(arms):
    """One token, then the end."""
    return tree(arms, 1)


def softmax(x):
    x = np.exp(x - x.max(axis=-1, keepdims=True))
    return x / x.sum(axis=-1, keepdims=True)


def token_log_probs(space, table):
    """[N, T], 0 after the end."""
    found = np.log(softmax(table))[space.nodes, space.tokens]
    return np.where(space.mask, found, 0.0)


def probabilities(space, table):
    """[N], of each completion."""
    return np.exp(token_log_probs(space, table).sum(axis=1))


def table_of(space, probs):
    """The logits [rows, V] of the policy that gives each completion its probability."""
    visits = np.zeros((space.rows, space.vocab))
    for i, p in enumerate(probs):
        for t in np.flatnonzero(space.mask[i]):
            visits[space.nodes[i, t], space.tokens[i, t]] += p
    return np.log(np.where(visits > 0, visits, 1.0))  # flat where no text comes


def tilted(probs, reward, beta):
    """The optimum of reward less `beta` KL: `probs e^(reward / beta) / Z`."""
    return softmax(np.log(probs) + reward / beta)


def score_functions(space, table):
    """Gradient of each completion's log-probability in the table, [N, rows * V]."""
    found = np.zeros((len(space.tokens), space.rows, space.vocab))
    probs = softmax(table)
    for i, t in zip(*np.nonzero(space.mask)):
        node = space.nodes[i, t]
        found[i, node] -= probs[node]
        found[i, node, space.tokens[i, t]] += 1.0
    return found.reshape(len(found), -1)


def natural(space, table, gradient):
    """The gradient measured in the policy and not in its logits: inverse Fisher times it."""
    scores, probs = score_functions(space, table), probabilities(space, table)
    fisher = scores.T @ (probs[:, None] * scores)
    return (np.linalg.pinv(fisher, rcond=1e-12) @ np.ravel(gradient)).reshape(table.shape)


def ascended(space, table, gradient):
    """The reward of each completion, up to a constant, that a loss of this gradient raises."""
    direction = -natural(space, table, gradient)
    return score_functions(space, table) @ direction.ravel()


class Outputs(NamedTuple):
    logits: jax.Array


def apply_table(params, tokens, mask, window):
    """Logits [B, T, V]: each prefix has a row of its own."""
    table = params["table"]
    node = jnp.zeros(tokens.shape[0], jnp.int32)
    nodes = [node]
    for t in range(window[0] + 1, window[1]):
        node = node * table.shape[1] + tokens[:, t] + 1
        nodes.append(node)
    return Outputs(table[jnp.stack(nodes, axis=1)])


TABLE = Model(init=lambda key: {}, apply=apply_table)


def settings(temperature=1.0, **changes):
    """A plain policy gradient on sums over texts, but for `changes`."""
    plain = {
        "advantage": "no_baseline",
        "aggregation": "sequence_sum",
        "whiten_advantages": "none",
        "group_std_epsilon": 0.0,
        "kl_placement": "none",
        "kl_controller": "fixed",
        "behavior_log_probs": "forward",
        "gae_lambda": 1.0,
    }
    algo = PolicyGradientConfig(**(plain | changes))
    return RLHFConfig(algo=algo, sampling=SamplingConfig(temperature=temperature))


def batch_loss(config, table, sampler, ref, coef, tokens, mask, scores):
    """The loss at `table` of one batch that `sampler` drew, as training computes it."""
    one = jnp.ones((tokens.shape[0], 1), bool)
    rollout = TextRollout(
        prompt_tokens=jnp.ones(one.shape, jnp.int32),
        prompt_mask=one,
        completion_tokens=tokens,
        completion_mask=mask,
        behavior_log_probs=jnp.zeros(tokens.shape),  # "forward" puts the sampler's here
    )
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(
        params={"policy": {"table": sampler}},
        opt_state=None,
        key=jax.random.key(0),
        update=zero,
        skipped=zero,
        skipped_in_a_row=zero,
        extra={"kl_coef": coef, "penalty_coef": coef, "baseline": jnp.zeros(())},
    )
    scored = Scored(
        rollout=rollout, raw=scores, scores=scores, learnt=one[:, 0], greedy=jnp.zeros_like(scores)
    )
    experience, _ = make_experience(TABLE, config, state, scored, {"table": ref})
    return minibatch_loss(TABLE, config, state.extra, {"policy": {"table": table}}, experience)


@functools.partial(jax.jit, static_argnums=(0, 1), compiler_options=QUICK)
def over_batches(config, watch, table, sampler, ref, coef, tokens, mask, scores, weights):
    """Weighted sum of the losses of batches [M, B, T], the batches' metrics, and the gradient."""

    def total(table):
        one = lambda *batch: batch_loss(config, table, sampler, ref, coef, *batch)
        losses, metrics = jax.vmap(one)(tokens, mask, scores)
        return jnp.sum(weights * losses), metrics if watch else {}

    return jax.value_and_grad(total, has_aux=True)(table)


def expected(config, space, reward, table, ref, *, coef=0.0, sampler=None, group=1, watch=False):
    """Mean loss, its gradient [rows, V] and, to `watch`, each batch's metrics.

    The mean is over all batches of `group` texts that `sampler` (the policy itself, unless given)
    can draw: every one is drawn, and counts with its probability.
    """
    sampler = table if sampler is None else sampler
    count = len(space.tokens)
    index = np.stack(np.meshgrid(*[np.arange(count)] * group, indexing="ij"), -1).reshape(-1, group)
    weights = np.prod(probabilities(space, sampler / config.sampling.temperature)[index], axis=1)
    arrays = (space.tokens[index], space.mask[index], np.asarray(reward, float)[index], weights)
    (loss, metrics), gradient = over_batches(
        config, watch, *map(jnp.asarray, (table, sampler, ref, float(coef), *arrays))
    )
    return float(loss), np.asarray(gradient), metrics


def gradient_of(config, space, reward, table, ref, **kwargs):
    """Only the gradient of `expected`."""
    return expected(config, space, reward, table, ref, **kwargs)[1]
