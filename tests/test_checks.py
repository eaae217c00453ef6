"""Settings that cannot work are refused, and the message names key, value and what is accepted."""

import dataclasses
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import pytest

from rlhf_jax import config as schemas
from rlhf_jax.checks import check_config, check_task
from rlhf_jax.config import ConfigError, ReviewsConfig, RLHFConfig
from rlhf_jax.types import PairBatch, Sequences

BASE = RLHFConfig(task=ReviewsConfig())
FILES = schemas.JsonlConfig(prompts="prompts.jsonl", preferences="pairs.jsonl")
IMDB = RLHFConfig(task=schemas.ImdbConfig(), model=schemas.ModelConfig(context=256))


def with_setting(key, value, config=BASE):
    head, _, rest = key.partition(".")
    if rest:
        value = with_setting(rest, value, getattr(config, head))
    return dataclasses.replace(config, **{head: value})


def test_the_defaults_of_every_task_pass():
    wide = schemas.ModelConfig(context=256)
    for task in (ReviewsConfig(), schemas.ImdbConfig(), FILES):
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
    ("algo.score_placement", "first", "last_token, after_eos, last_slot"),
    ("algo.advantage", "ppo", "gae, monte_carlo, grpo"),
    ("algo.surrogate", "trpo", "clip, asymmetric_clip, dual_clip"),
    ("algo.aggregation", "mean", "token_mean, sequence_mean"),
    ("algo.whiten_rewards", "yes", "none, keep_mean, standardize, scale"),
    ("algo.whiten_over", "group", "batch, minibatch"),
    ("algo.missing_eos", "keep", "none, subtract, replace"),
    ("model.value_init", "sft", "reward_model, random, zero"),
    ("optim.epsilon_style", "torch", "optax, tensorflow"),
    ("reward_model.normalize", "yes", "scale, shift, none"),
    ("model.dtype", "float16", "float32, bfloat16"),
    ("model.attention", "flash", "own, xla, cudnn"),
    ("model.attention", "cudnn", "needs model.dtype=bfloat16"),
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
    ("algo.clip_eps", 1.0, "below 1"),
    ("algo.clip_eps_high", 0.0, "above 0"),
    ("algo.value_clip_eps", 0.0, "above 0"),
    ("algo.group_size", 0, "above 0"),
    ("algo.baseline_decay", 1.0, "[0, 1)"),
    ("optim.value_rate_factor", 0.0, "above 0"),
    ("sampling.min_length", 25, "sampling.max_length=24"),
    ("model.context", 30, "at least 31"),
    ("task.min_prompt", 7, "task.max_prompt=6"),
    ("task.max_prompt", 60, "model.context=64 to be at least 85"),
    ("sampling.max_length", 60, "model.context=64 to be at least 67"),
    ("task.name", "imdb", "choose the task by task=imdb"),
    ("task.flip_rate", 0.5, "[0, 0.5)"),
    ("task.data_seed", 2**32, "below 2**32"),
    ("seed", 2**32, "below 2**32"),
    ("task.reward", "mine", "reward_model, gold or package.module:function"),
    ("task.reward", "mine:score:twice", "reward_model, gold or package.module:function"),
    ("task.reward", "my-module:score", "reward_model, gold or package.module:function"),
]


@pytest.mark.parametrize("key, value, accepted", BAD, ids=lambda x: str(x)[:24])
def test_a_bad_setting_is_named_with_what_is_accepted(key, value, accepted):
    with pytest.raises(ConfigError) as caught:
        check_config(with_setting(key, value))
    message = str(caught.value)
    assert message.startswith(f"{key}={value!r}: ")
    assert accepted in message and "\n" not in message


@pytest.mark.parametrize("name", ["text_length", "pair_length"])
def test_texts_must_fit_the_context(name):
    with pytest.raises(ConfigError, match=rf"task\.{name}=300: must be at most model\.context=256"):
        check_config(with_setting(f"task.{name}", 300, IMDB))


@pytest.mark.parametrize("spec", ["gold", "mine:score", "a.b_2.c:Reward.score"])
def test_the_form_of_a_reward_is_accepted(spec):
    check_config(with_setting("task.reward", spec))


@pytest.mark.parametrize("name", ["prompts", "preferences"])
def test_files_of_the_users_own_are_required(name):
    task = dataclasses.replace(FILES, **{name: ""})
    config = RLHFConfig(task=task, model=schemas.ModelConfig(context=256))
    with pytest.raises(ConfigError, match=rf"task\.{name}='': give a file of"):
        check_config(config)


SCHEMAS = [c for c in vars(schemas).values() if isinstance(c, type) and dataclasses.is_dataclass(c)]
NUMBERS = {"int", "float", "Optional[int]", "Optional[float]"}


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda c: c.__name__)
def test_every_number_has_a_range_that_holds_its_default(schema):
    numbers = [f for f in dataclasses.fields(schema) if f.type in NUMBERS]
    assert [f.name for f in numbers if "range" not in f.metadata] == []
    given = [f for f in numbers if f.default is not None]
    assert all(f.metadata["range"].holds(f.default) for f in given)


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
    exact: object = None
    sampled_gap: object = None
    codec: object = SimpleNamespace(ends=True)


def task_of(text=8, pairs=8, prompts=8, margin=0.0):
    def zeros(width):
        return Sequences(tokens=np.zeros((2, width), int), mask=np.ones((2, width), bool))

    both = PairBatch(
        chosen=zeros(pairs),
        rejected=zeros(pairs),
        margin=np.full(2, margin),
        prompt_length=np.ones(2, np.int32),
    )
    return FakeTask(zeros(text), zeros(text), both, zeros(prompts))


def test_a_gold_reward_must_exist():
    config = with_setting("task.reward", "gold")
    with pytest.raises(ConfigError, match=r"task\.reward='gold': mine has no gold reward"):
        check_task(config, task_of())
    check_task(config, task_of()._replace(gold=len))


def test_a_margin_needs_margins():
    config = with_setting("reward_model.margin", 0.5)
    with pytest.raises(ConfigError, match=r"reward_model\.margin=0\.5: .* mine have no margins"):
        check_task(config, task_of())
    check_task(config, task_of(margin=2.0))


@pytest.mark.parametrize(
    "part, width, needed", [("text", 65, 65), ("pairs", 70, 70), ("prompts", 41, 65)]
)
def test_the_data_must_fit_the_model(part, width, needed):
    check_task(BASE, task_of())
    with pytest.raises(ConfigError, match=rf"model\.context=64: .* at least {needed}"):
        check_task(BASE, task_of(**{part: width}))
