"""Settings that cannot work are refused, and the message names key, value and what is accepted."""

import dataclasses
from typing import NamedTuple

import numpy as np
import pytest

from rlhf_jax import config as schemas
from rlhf_jax.checks import NOT_NEGATIVE, POSITIVE, SHARES, check_config, check_task, leaves
from rlhf_jax.config import ConfigError, ReviewsConfig, RLHFConfig
from rlhf_jax.types import PairBatch, Sequences

BASE = RLHFConfig(task=ReviewsConfig())
IMDB = RLHFConfig(task=schemas.ImdbConfig(), model=schemas.ModelConfig(context=256))


def with_setting(key, value, config=BASE):
    head, _, rest = key.partition(".")
    if rest:
        value = with_setting(rest, value, getattr(config, head))
    return dataclasses.replace(config, **{head: value})


def test_the_defaults_of_every_task_pass():
    wide = schemas.ModelConfig(context=256)
    for task in (ReviewsConfig(), schemas.ImdbConfig(), schemas.JsonlConfig()):
        check_config(RLHFConfig(task=task, model=wide))
    check_config(BASE)


BAD = [
    # key, value, what the message must say beside key and value
    ("sampling.temperature", 0.0, "above 0"),
    ("optim.learning_rate", -1e-3, "above 0"),
    ("optim.learning_rate", float("nan"), "finite"),
    ("algo.kl_coef", -0.1, "0 or above"),
    ("algo.kl_target", float("inf"), "finite"),
    ("algo.gae_lambda", 1.5, "between 0 and 1"),
    ("algo.gamma", -0.5, "between 0 and 1"),
    ("sampling.top_p", 2.0, "at most 1"),
    ("seed", -1, "0 or above"),
    ("algo.updates", 0, "above 0"),
    ("sft.batch_size", 0, "above 0"),
    ("eval.num_prompts", 0, "above 0"),
    ("run.threads", 0, "above 0"),
    ("algo.kl_controller", "maybe", "adaptive, fixed"),
    ("algo.score_placement", "first", "last_token, last_slot"),
    ("model.dtype", "float16", "float32, bfloat16"),
    ("model.value_head", "none", "separate, shared, shared_stop_gradient"),
    ("sft.optim.schedule", "step", "constant, linear, cosine"),
    ("sink.kind", "csv", "jsonl, wandb, tensorboard"),
    ("run.device", "npu", "auto, cpu, gpu, tpu"),
    ("model.heads", 5, "divide width=64"),
    ("model.heads", 64, "heads of even size"),
    ("model.kv_heads", 3, "divide heads=4"),
    ("optim.warmup", 1.0, "[0, 1)"),
    ("sft.optim.beta1", 1.0, "[0, 1)"),
    ("reward_model.optim.beta2", -0.1, "[0, 1)"),
    ("algo.minibatches", 3, "divide algo.batch_size=64"),
    ("algo.clip_eps", 1.0, "below 1"),
    ("sampling.min_length", 25, "sampling.max_length=24"),
    ("model.context", 30, "at least 31"),
    ("task.min_prompt", 7, "task.max_prompt=6"),
]


@pytest.mark.parametrize("key, value, accepted", BAD, ids=lambda x: str(x)[:24])
def test_a_bad_setting_is_named_with_what_is_accepted(key, value, accepted):
    with pytest.raises(ConfigError) as caught:
        check_config(with_setting(key, value))
    message = str(caught.value)
    assert message.startswith(f"{key}={value!r}: ")
    assert accepted in message and "\n" not in message


def test_the_divisors_are_listed():
    with pytest.raises(ConfigError, match=r"one of \[1, 2, 4, 8, 16, 32, 64\]"):
        check_config(with_setting("algo.minibatches", 5))


@pytest.mark.parametrize("name", ["text_length", "pair_length"])
def test_texts_must_fit_the_context(name):
    with pytest.raises(ConfigError, match=rf"task\.{name}=300: must be at most model\.context=256"):
        check_config(with_setting(f"task.{name}", 300, IMDB))


def test_rough_decoding_is_not_trusted_with_log_probs():
    config = with_setting("model.dtype", "bfloat16")
    with pytest.raises(ConfigError, match=r"algo\.behavior_log_probs='sampler': use forward"):
        check_config(config)
    check_config(with_setting("algo.behavior_log_probs", "forward", config))


def test_every_ranged_name_is_a_setting():
    configs = (BASE, IMDB, RLHFConfig(task=schemas.JsonlConfig()))
    names = {f.name for config in configs for _, f, _ in leaves(config)}
    assert names >= POSITIVE | NOT_NEGATIVE | SHARES


def test_a_share_of_0_tokens_is_refused():
    with pytest.raises(ConfigError, match=r"sampling\.top_p=0\.0"):
        check_config(with_setting("sampling.top_p", 0.0))


class FakeTask(NamedTuple):
    """As much of a task as the checks read."""

    train_text: Sequences
    heldout_text: Sequences
    train_pairs: PairBatch
    train_prompts: Sequences
    gold: object = None
    name: str = "mine"


def task_of(text=8, pairs=8, prompts=8):
    def zeros(width):
        return Sequences(tokens=np.zeros((2, width), int), mask=np.ones((2, width), bool))

    both = PairBatch(chosen=zeros(pairs), rejected=zeros(pairs), margin=np.zeros(2))
    return FakeTask(zeros(text), zeros(text), both, zeros(prompts))


def test_a_gold_reward_must_exist():
    config = with_setting("task.reward", "gold")
    with pytest.raises(ConfigError, match=r"task\.reward='gold': mine has no gold reward"):
        check_task(config, task_of())
    check_task(config, task_of()._replace(gold=len))


@pytest.mark.parametrize(
    "part, width, needed", [("text", 65, 65), ("pairs", 70, 70), ("prompts", 41, 65)]
)
def test_the_data_must_fit_the_model(part, width, needed):
    check_task(BASE, task_of())
    with pytest.raises(ConfigError, match=rf"model\.context=64: .* at least {needed}"):
        check_task(BASE, task_of(**{part: width}))
