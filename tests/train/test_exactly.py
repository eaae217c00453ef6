"""What an ordinary run on a listed task logs is what brute force says of its policy."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.config import (
    ModelConfig,
    OnlineDPOConfig,
    PolicyGradientConfig,
    PreferenceConfig,
    RejectionConfig,
    RepetitionConfig,
    RLHFConfig,
    RunConfig,
    SamplingConfig,
)
from rlhf_jax.models.value_heads import init_head, score_texts
from rlhf_jax.tasks import make_task
from rlhf_jax.train.exactly import every_completion, make_look, price, reward_table
from rlhf_jax.train.loop import Session
from rlhf_jax.train.pipeline import make_pipeline
from rlhf_jax.train.state import Frozen

TASK = RepetitionConfig(letters=3, length=3, num_prompts=2, num_texts=32, num_pairs=64)
CONFIG = RLHFConfig(
    task=TASK,
    model=ModelConfig(layers=1, width=8, heads=2, kv_heads=1, ff_width=16, context=8),
    sampling=SamplingConfig(max_length=3, temperature=0.8),
    algo=PolicyGradientConfig(kl_coef=0.7),
    run=RunConfig(cache=False, progress=False),
)


def built(reward, score_host=None):
    """A pipeline of that reward, with random models."""
    config = dataclasses.replace(CONFIG, task=dataclasses.replace(TASK, reward=reward))
    session = Session(run_dir=None, run=config.run, sink=None)
    pipeline = make_pipeline(config, make_task(config.task), session, score_host)
    policy, reference = (jax.jit(pipeline.model.init)(jax.random.key(i)) for i in (0, 1))
    head = init_head(jax.random.key(2), 8)
    return pipeline, policy, Frozen(reference=reference, reward={"trunk": policy, "head": head})


def state_of(policy, coef=0.7):
    return SimpleNamespace(params={"policy": policy}, extra={"kl_coef": jnp.float32(coef)})


def tables(pipeline, frozen):
    return np.asarray(reward_table(pipeline, frozen, pipeline.task.exact))


def test_the_table_is_the_reward_trained_on():
    pipeline, _, frozen = built("gold")
    gold = tables(pipeline, frozen)
    np.testing.assert_allclose(gold, pipeline.task.exact.gold, rtol=1e-6)
    assert np.abs(tables(*built("counts")[::2]) - gold).max() > 0.1
    pipeline, _, frozen = built("reward_model")
    texts = every_completion(pipeline.task.exact)
    learned = jax.jit(score_texts, static_argnums=0)(
        pipeline.model, frozen.reward, texts.tokens(), texts.mask()
    )
    np.testing.assert_allclose(tables(pipeline, frozen).ravel(), learned, atol=1e-5)
    mine = lambda rollout: np.arange(len(rollout.completion_tokens), dtype=np.float32)
    pipeline, _, frozen = built("my.module:reward", mine)
    np.testing.assert_array_equal(tables(pipeline, frozen).ravel(), np.arange(2 * 27))


def test_the_gap_is_that_of_the_reward_and_price_of_the_run():
    pipeline, policy, frozen = built("counts")
    found = {k: float(v) for k, v in jax.jit(make_look_of(pipeline, frozen))(policy).items()}
    exact, r = pipeline.task.exact, np.float64(tables(pipeline, frozen))
    from rlhf_jax.exact.policy import policy_log_probs

    settings = {"config": pipeline.config.model, "sampling": pipeline.config.sampling}
    prompts = jax.tree.map(jnp.asarray, exact.prompts)
    walk = lambda p: policy_log_probs(pipeline.model, p, exact.tree, prompts, **settings)
    log_p, log_q = (np.float64(jax.jit(walk)(x)) for x in (policy, frozen.reference))
    p, q = np.exp(log_p), np.exp(log_q)
    best = 0.7 * np.mean(np.log((q * np.exp(r / 0.7)).sum(axis=1)))
    kl, mean = np.mean((p * (log_p - log_q)).sum(axis=1)), np.mean((p * r).sum(axis=1))
    assert found["exact/kl"] == pytest.approx(kl, abs=1e-4)
    assert found["exact/gap"] == pytest.approx(best - (mean - 0.7 * kl), abs=1e-4)
    assert found["exact/gold"] == pytest.approx(np.mean((p * exact.gold).sum(axis=1)), abs=1e-4)
    assert abs(best - (mean + 0.7 * kl) - found["exact/gap"]) > 1e-2  # the sign of the KL


def make_look_of(pipeline, frozen):
    look = make_look(pipeline, frozen)
    return lambda policy: look(state_of(policy))


@pytest.mark.parametrize(
    "algo, expected",
    [
        (PolicyGradientConfig(kl_coef=0.1), 0.7),  # where the controller has it, not where it began
        (PolicyGradientConfig(kl_placement="none", kl_controller="fixed"), None),
        (PreferenceConfig(beta=0.3), 0.3),
        (PreferenceConfig(loss="simpo"), None),
        (OnlineDPOConfig(beta=0.2), 0.2),
        (RejectionConfig(), None),
    ],
)
def test_every_algorithm_has_its_price(algo, expected):
    found = price(dataclasses.replace(CONFIG, algo=algo), state_of(None))
    assert found == (None if expected is None else pytest.approx(expected))
