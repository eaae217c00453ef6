"""A finished run answers prompts: the tuned model beside the reference it started from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.config import (
    AutomatonConfig,
    ConfigError,
    EnumerableConfig,
    RLHFConfig,
    SamplingConfig,
    TaskConfig,
)
from rlhf_jax.io.params import load_params
from rlhf_jax.io.run_dir import RunDir
from rlhf_jax.models.functional import Model
from rlhf_jax.models.sizes import as_built
from rlhf_jax.models.transformer import make_language_model
from rlhf_jax.sampling.decode import generate
from rlhf_jax.tasks.protocol import TextCodec
from rlhf_jax.tasks.tokens import pad_rows
from rlhf_jax.train.evaluate import Evaluation, judge_rollout
from rlhf_jax.train.scoring import decode_rows
from rlhf_jax.train.state import Frozen, stream
from rlhf_jax.types import Key, Params, ScoreFn, Sequences

ROWS = 64  # completions in one compiled call, at most
WIDTHS = (8, 16, 32, 64, 128, 256, 512, 1024)  # of padded prompts: few widths, few compilations

Answer = dict[str, Any]  # one line of the output file


class Answerer(NamedTuple):
    """What it takes to answer a prompt."""

    codec: TextCodec
    name: str  # of the algorithm
    context: int
    sampling: SamplingConfig
    num_samples: int
    key: Key
    has_gold: bool
    complete: Callable[[Sequences, Key], tuple[Evaluation, Evaluation]]  # tuned, reference


def open_answerer(
    config: RLHFConfig, sampling: SamplingConfig, path: Path, num_samples: int, seed: int
) -> Answerer:
    """Loads the models of the finished run in `path`, whose settings are `config`."""
    codec, gold = codec_and_gold(config.task, path)
    config = dataclasses.replace(config, model=as_built(config.model, codec.vocab_size))
    model = make_language_model(config.model, codec.vocab_size, codec.special, ends=codec.ends)
    names = ("policy", "sft", "reward_model")
    policy, sft, reward = (load_params(RunDir(path).params(n))[0] for n in names)
    frozen = Frozen(reference=sft, reward=reward)
    complete = jax.jit(make_complete(model, config, sampling, codec, gold))
    return Answerer(
        codec=codec,
        name=config.algo.name,
        context=config.model.context,
        sampling=sampling,
        num_samples=num_samples,
        key=jax.random.key(seed),
        has_gold=gold is not None,
        complete=lambda prompts, key: complete(policy["policy"], frozen, prompts, key),
    )


def codec_and_gold(task: TaskConfig, path: Path) -> tuple[TextCodec, ScoreFn | None]:
    """The codec and gold reward of a run's task, without rebuilding its data."""
    if task.name == "reviews":
        from rlhf_jax.tasks.reviews.films import film_grammar
        from rlhf_jax.tasks.reviews.gold import film_machines, make_gold
        from rlhf_jax.tasks.reviews.vocabulary import make_codec

        return make_codec(film_grammar().words), make_gold(film_machines())
    if isinstance(task, EnumerableConfig | AutomatonConfig):
        from rlhf_jax.tasks import make_task

        listed = make_task(task)
        return listed.codec, listed.gold
    from tokenizers import Tokenizer

    from rlhf_jax.tasks import tokenizer

    file = path / "tokenizer.json"
    if not file.is_file():
        raise ConfigError("run", str(path), "the run has no tokenizer.json")
    bpe = Tokenizer.from_file(str(file))
    bpe.encode_special_tokens = True  # a prompt that spells "<eos>" is text; not in the JSON
    return tokenizer.make_codec(bpe), None


def make_complete(
    model: Model,
    config: RLHFConfig,
    sampling: SamplingConfig,
    codec: TextCodec,
    gold: ScoreFn | None,
) -> Callable[[Params, Frozen, Sequences, Key], tuple[Evaluation, Evaluation]]:
    """`(policy, frozen, prompts, key)` to the completions of both models, from the same key.

    In both, `kl` is log(tuned / reference) of the completion: over the tuned model's own its mean
    estimates the KL divergence, of the reference's it says how the tuned model sees that text.
    """

    def on_model(params: Params, policy: Params, frozen: Frozen, prompts: Sequences, key: Key):
        rollout = generate(
            model,
            params,
            prompts,
            key,
            config=config.model,
            sampling=sampling,
            special=codec.special,
        )
        return judge_rollout(model, policy, frozen, rollout, sampling, gold)

    def complete(policy: Params, frozen: Frozen, prompts: Sequences, key: Key):
        tuned = on_model(policy, policy, frozen, prompts, key)
        return tuned, on_model(frozen.reference, policy, frozen, prompts, key)

    return complete


def encode_prompt(answerer: Answerer, prompt: str) -> list[int]:
    """BOS and the prompt's tokens.

    Raises:
      ConfigError: a word the vocabulary lacks, or a prompt that leaves no room for an answer.
    """
    codec, longest = answerer.codec, answerer.context - answerer.sampling.max_length
    try:
        tokens = [codec.bos_id, *codec.encode(prompt)]
    except ValueError as error:  # the closed vocabulary of `reviews`
        raise ConfigError("prompt", prompt, str(error)) from None
    if len(tokens) > longest:
        accepted = (
            f"{len(tokens)} tokens with BOS, at most {longest} are accepted (a context of "
            f"{answerer.context} less sampling.max_length={answerer.sampling.max_length})"
        )
        raise ConfigError("prompt", prompt, accepted)
    return tokens


def answer(answerer: Answerer, prompts: Sequence[str], turn: int = 0) -> list[Answer]:
    """Completions of both models for each prompt, `num_samples` a prompt, in order.

    `turn` numbers the calls of one session, so that a prompt asked again is answered anew.
    """
    encoded = [encode_prompt(answerer, p) for p in prompts]
    rows = [i for i in range(len(prompts)) for _ in range(answerer.num_samples)]
    longest = answerer.context - answerer.sampling.max_length
    width = min(w for w in (*WIDTHS, longest) if w >= max(map(len, encoded)))
    key, size = stream(answerer.key, "generate", turn), min(len(rows), ROWS)
    answers: list[Answer] = []
    for batch, start in enumerate(range(0, len(rows), size)):
        taken = rows[start : start + size]
        full = taken + taken[:1] * (size - len(taken))  # repeated rows keep the shape
        padded = pad_rows([encoded[i] for i in full], min(width, longest), left=True)
        tuned, reference = answerer.complete(padded, jax.random.fold_in(key, batch))
        sides = {"tuned": side(answerer, tuned), "reference": side(answerer, reference)}
        for k, i in enumerate(taken):
            row = {name: rows_of_side[k] for name, rows_of_side in sides.items()}
            answers.append(
                {"prompt": prompts[i], "sample": (start + k) % answerer.num_samples} | row
            )
    return answers


def side(answerer: Answerer, evaluation: Evaluation) -> list[dict[str, Any]]:
    """One model's completions with what is known about each."""
    found = jax.device_get(evaluation)
    rollout = found.rollout
    texts = decode_rows(answerer.codec, rollout.completion_tokens, rollout.completion_mask)
    ended = np.any(rollout.completion_tokens == answerer.codec.eos_id, axis=1)
    columns = {"gold/score": found.gold} if answerer.has_gold else {}
    columns |= {"objective/scores": found.reward, "log_ratio": found.kl}
    return [
        {"text": text, "finished": bool(ended[i])}
        | {name: float(values[i]) for name, values in columns.items()}
        for i, text in enumerate(texts)
    ]
