"""Where the score of a completion comes from: in the compiled program, or plain Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.models.functional import Model
from rlhf_jax.models.value_heads import score_texts
from rlhf_jax.rollout.text import up_to_end
from rlhf_jax.tasks.protocol import TextCodec
from rlhf_jax.tasks.rewards import RewardFn
from rlhf_jax.tasks.rewards import score_texts as call_reward
from rlhf_jax.train.batches import in_batches, num_rows
from rlhf_jax.train.state import Frozen
from rlhf_jax.types import Array, Metrics, ScoreFn, SpecialTokens, TextRollout

ScoreHost = Callable[[TextRollout], np.ndarray]


def make_score(
    reward: str, model: Model, known: Mapping[str, ScoreFn], special: SpecialTokens
) -> Callable[[Frozen, TextRollout], Array]:
    """The in-graph reward of texts up to their end: one of the task's, or the reward model."""

    def score(frozen: Frozen, rollout: TextRollout) -> Array:
        text = up_to_end(rollout, special)
        if reward in known:
            return known[reward](text.tokens(), text.mask())
        return score_texts(model, frozen.reward, text.tokens(), text.mask())

    return score


def in_parts(score: Callable[[Frozen, TextRollout], jax.Array], size: int = 512):
    """`score` over many rows, so many at a time."""

    def scores(frozen: Frozen, rollout: TextRollout) -> jax.Array:
        parts = in_batches(rollout, size)
        found = jax.lax.map(lambda part: score(frozen, part), parts)
        return found.reshape(-1)[: num_rows(rollout)]

    return scores


def make_watch(gold: ScoreFn | None, special: SpecialTokens) -> Callable[[TextRollout], Metrics]:
    """Adds the task's true reward to the metrics, where it has one."""
    if gold is None:
        return lambda rollout: {}

    def watch(rollout: TextRollout) -> Metrics:
        text = up_to_end(rollout, special)
        return {"gold/score": jnp.mean(gold(text.tokens(), text.mask()))}

    return watch


def texts_of(codec: TextCodec, rollout: TextRollout) -> list[str]:
    """Prompt and completion of each row as one text."""
    return decode_rows(codec, rollout.tokens(), rollout.mask())


def decode_rows(codec: TextCodec, tokens: Array, mask: Array) -> list[str]:
    """The real tokens of each row as text."""
    return [codec.decode(t[m].tolist()) for t, m in zip(np.asarray(tokens), np.asarray(mask))]


def prompt_and_completion(codec: TextCodec, rollout: TextRollout) -> list[tuple[str, str]]:
    """Prompt and completion of each row as texts of their own."""
    prompts = decode_rows(codec, rollout.prompt_tokens, rollout.prompt_mask)
    answers = decode_rows(codec, rollout.completion_tokens, rollout.completion_mask)
    return list(zip(prompts, answers))


def host_score(codec: TextCodec, reward: RewardFn) -> ScoreHost:
    """Scores rollouts with a plain callable from texts to floats."""
    return lambda rollout: call_reward(reward, texts_of(codec, up_to_end(rollout, codec.special)))
