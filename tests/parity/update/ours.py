"""Our side: the production update, from TRL's weights and on TRL's rollouts."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from unittest import mock

import jax
import jax.numpy as jnp

from rlhf_jax.config import RLHFConfig, merge_dynamic, split_dynamic
from rlhf_jax.models import blocks, transformer
from rlhf_jax.models.functional import Model
from rlhf_jax.models.transformer import make_transformer
from rlhf_jax.ops.masked import completion_mask
from rlhf_jax.rollout.text import Experience, completion_log_probs
from rlhf_jax.train import policy_gradient
from rlhf_jax.train.experience import make_experience
from rlhf_jax.train.scores import score_texts
from rlhf_jax.train.scoring import make_score
from rlhf_jax.train.state import Frozen, TrainState
from rlhf_jax.types import Array, Metrics, Params, TextRollout

from .setting import KEY, PROMPT, SPECIAL, VOCAB
from .weights import Arrays, named, scored, trunk

SHIFT = 1e-7  # TRL divides by the temperature and this much more
QUICK = {"xla_cpu_use_fusion_emitters": False}  # compiles in half the time


def rotary(positions: Array, slots: int, head_dim: int, theta: float) -> blocks.SinCos:
    """`blocks.rotary` of half the entries, in float64."""
    del slots
    half = head_dim // 2
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float64) / half)
    angles = positions[:, :, None, None].astype(jnp.float64) * frequencies[None, None, None]
    return jnp.exp(1j * angles).imag, jnp.exp(1j * angles).real


def rotate(x: Array, angles: blocks.SinCos) -> Array:
    """`blocks.rotate` in the precision of its input, by complex numbers."""
    half = x.shape[-1] // 2
    turned = (angles[1] + 1j * angles[0]) * (x[..., :half] + 1j * x[..., half:])
    return jnp.concatenate([turned.real, turned.imag], axis=-1)


@contextlib.contextmanager
def precision(dtype: str) -> Iterator[None]:
    """On the CPU, where TRL is; float64 throughout where asked for: no casts in the transformer."""
    cpu = jax.default_device(jax.devices("cpu")[0])
    if dtype == "float32":
        with cpu:
            yield
        return
    with (
        cpu,
        jax.enable_x64(True),
        jax.numpy_dtype_promotion("standard"),
        mock.patch.object(transformer, "rotary", rotary),
        mock.patch.object(blocks, "rotate", rotate),
        mock.patch.object(
            blocks, "attention_scores", lambda q, k, dtype: jnp.matmul(q, jnp.swapaxes(k, -1, -2))
        ),
        mock.patch.object(blocks, "product", lambda x, y, dtype: jnp.matmul(x, y)),
    ):
        yield


def network(config: RLHFConfig) -> Model:
    return make_transformer(config.model, VOCAB)


def parameters(answer: Arrays, when: str, config: RLHFConfig) -> Params:
    """TRL's policy and value model in our layout, `before` or `after.1`, the first update."""
    return {
        "policy": trunk(named(answer, f"{when}.policy"), config.model),
        "value": scored(named(answer, f"{when}.value"), config.model),
    }


def frozen(answer: Arrays, config: RLHFConfig) -> Frozen:
    """TRL's reference and reward model."""
    reference = trunk(named(answer, "before.reference"), config.model)
    reward = scored(named(answer, "before.reward"), config.model)
    return jax.tree.map(jnp.asarray, Frozen(reference=reference, reward=reward))


def start(answer: Arrays, config: RLHFConfig) -> TrainState:
    """The state before the first update, with TRL's weights."""
    state = policy_gradient.init(config, frozen(answer, config), KEY)
    params = jax.tree.map(jnp.asarray, parameters(answer, "before", config))
    opt_state = policy_gradient.optimizer(config).init(params)
    kl_coef = jnp.asarray(config.algo.kl_coef, params["policy"]["head_vd"].dtype)
    extra = state.extra | {"kl_coef": kl_coef}
    return dataclasses.replace(state, params=params, opt_state=opt_state, extra=extra)


def rollout(answer: Arrays, update: int) -> TextRollout:
    """The prompts TRL took, the tokens it drew, and the log-probabilities it gave them."""
    sequences = jnp.asarray(answer["sequences"][update], jnp.int32)
    prompts, tokens = sequences[:, :PROMPT], sequences[:, PROMPT:]
    mask = completion_mask(tokens, SPECIAL.eos)
    log_probs = jnp.asarray(answer["log_probs"][update], answer["ref_log_probs"].dtype)
    return TextRollout(
        prompt_tokens=prompts,
        prompt_mask=prompts != SPECIAL.pad,
        completion_tokens=tokens,
        completion_mask=mask,
        behavior_log_probs=jnp.where(mask, log_probs, 0.0),
    )


def shifted(hparams: dict, dtype: str) -> dict:
    """With TRL's temperature, where the precision shows the difference."""
    sampling = dict(hparams["sampling"])
    sampling["temperature"] += SHIFT if dtype == "float64" else 0.0
    return hparams | {"sampling": sampling}


@functools.cache
def program(static: RLHFConfig, dtype: str) -> Callable[..., tuple[TrainState, Metrics]]:
    """The compiled update: the scores of our reward model, then all that `learn` does."""
    model = network(static)
    score = make_score("reward_model", model, {}, SPECIAL)
    steps = policy_gradient.make_policy_gradient(model, static, special=SPECIAL, score=score)

    def update(state: TrainState, texts: TextRollout, fixed: Frozen, hparams: dict):
        return steps.learn(state, texts, score(fixed, texts), fixed, hparams)

    return jax.jit(update, compiler_options=QUICK)


def updates(
    answer: Arrays,
    config: RLHFConfig,
    dtype: str,
    count: int,
    adapt: Callable[[dict, str], dict] = shifted,
) -> list[tuple[TrainState, Metrics]]:
    """States and metrics after each of the first `count` updates."""
    with precision(dtype):
        static, hparams = split_dynamic(config)
        state, found = start(answer, config), []
        for i in range(count):
            inputs = (rollout(answer, i), frozen(answer, config), adapt(hparams, dtype))
            state, metrics = program(static, dtype)(state, *inputs)
            found.append((state, metrics))
        return jax.device_get(found)


def experience(
    config: RLHFConfig, state: TrainState, texts: TextRollout, fixed: Frozen
) -> tuple[Array, Experience]:
    """Scores, and what is learnt from."""
    model = network(config)
    scores = make_score("reward_model", model, {}, SPECIAL)(fixed, texts)
    shaped = score_texts(config.algo, texts, scores, SPECIAL)
    return scores, make_experience(model, config, state, shaped, fixed.reference)[0]


def prepare(
    config: RLHFConfig, state: TrainState, texts: TextRollout, fixed: Frozen
) -> dict[str, Array]:
    """What an update learns from, and our own log-probabilities of the tokens."""
    scores, made = experience(config, state, texts, fixed)
    policy = state.params["policy"]
    log_probs, _ = completion_log_probs(network(config), policy, texts, config.sampling)
    return {
        "log_probs": jnp.where(texts.completion_mask, log_probs, 0.0),
        "ref_log_probs": made.ref_log_probs,
        "values": made.values,
        "scores": scores,
        "raw_advantages": made.returns - made.values,
        "advantages": made.advantages,
    }


def first_lessons(answer: Arrays, config: RLHFConfig, dtype: str) -> Arrays:
    """`prepare` of the first update."""
    with precision(dtype):
        config = merge_dynamic(config, shifted(split_dynamic(config)[1], dtype))
        inputs = start(answer, config), rollout(answer, 0), frozen(answer, config)
        return jax.device_get(jax.jit(functools.partial(prepare, config))(*inputs))
