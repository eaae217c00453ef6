"""Completions of a finished run: the tuned model beside the reference it started from.

python -m experiments.generate run=outputs/rlhf/...                        # asks for prompts
python -m experiments.generate run=outputs/rlhf/... prompt="the plot was"
python -m experiments.generate run=outputs/rlhf/... prompts=prompts.txt output=answers.jsonl
python -m experiments.generate run=... prompt="it was" num_samples=4 sampling.temperature=0.7
"""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments._cli import launch
from experiments._errors import one_line
from experiments._overrides import overrides_of
from experiments._resume import stored_config
from experiments._schemas import SCHEMAS, algo_of, open_to_choice, thawed
from rlhf_jax import runtime
from rlhf_jax.checks import check_leaf, leaves
from rlhf_jax.config import (
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_SHARE,
    SEED,
    BestOfNConfig,
    ConfigError,
    RLHFConfig,
    SamplingConfig,
    choice,
    number,
)
from rlhf_jax.io.run_dir import RunDir


@dataclass(frozen=True)
class SamplingOverrides:
    """As `SamplingConfig`; null keeps what the run trained with."""

    temperature: Optional[float] = number(None, POSITIVE)
    top_k: Optional[int] = number(None, NOT_NEGATIVE)
    top_p: Optional[float] = number(None, POSITIVE_SHARE)
    min_length: Optional[int] = number(None, NOT_NEGATIVE)
    max_length: Optional[int] = number(None, POSITIVE)


@dataclass(frozen=True)
class GenerateConfig:
    """`python -m experiments.generate`; without `prompt` and `prompts` it asks for them."""

    run: Optional[str] = None  # directory of a finished run of experiments.rlhf
    prompt: Optional[str] = None
    prompts: Optional[str] = None  # one prompt a line, or .jsonl with {"prompt"}
    output: Optional[str] = None  # .jsonl file for the answers
    num_samples: int = number(1, POSITIVE)  # completions of each model for each prompt
    seed: int = number(0, SEED)
    device: str = choice("auto", "cpu", "gpu", "tpu")
    sampling: SamplingOverrides = field(default_factory=SamplingOverrides)


def main(config: GenerateConfig, output_dir: Path) -> None:
    """Answers prompts with a finished run."""
    trained, sampling = prepare(config)
    run = dataclasses.replace(trained.run, device=config.device)
    runtime.setup(run)
    runtime.connect(run)
    from rlhf_jax.train.answer import open_answerer  # imports jax, so only after the set-up
    from rlhf_jax.train.ask import answer_prompts, converse, read_prompts

    answerer = open_answerer(
        trained, sampling, Path(config.run or ""), config.num_samples, config.seed
    )
    output = None if config.output is None else Path(config.output)
    if config.prompt is not None:
        answer_prompts(answerer, [config.prompt], output)
    elif config.prompts is not None:
        answer_prompts(answerer, read_prompts(Path(config.prompts)), output)
    else:
        converse(answerer, output)


def prepare(config: GenerateConfig) -> tuple[RLHFConfig, SamplingConfig]:
    """The settings of the run asked for, and how to sample from it."""
    for key, f, value in leaves(config):
        check_leaf(key, f, value)
    if config.prompt is not None and config.prompts is not None:
        raise ConfigError("prompt", config.prompt, "give prompt or prompts, not both")
    trained = load_run_config(config.run)
    if isinstance(trained.algo, BestOfNConfig):
        accepted = "best_of_n trains nothing: there is only the reference; give another run"
        raise ConfigError("run", config.run, accepted)
    given = {k: v for k, v in dataclasses.asdict(config.sampling).items() if v is not None}
    sampling = dataclasses.replace(trained.sampling, **given)
    if sampling.min_length > sampling.max_length:
        accepted = f"must be at most sampling.max_length={sampling.max_length}"
        raise ConfigError("sampling.min_length", sampling.min_length, accepted)
    if sampling.max_length >= trained.model.context:
        accepted = f"must be below the model's context of {trained.model.context}"
        raise ConfigError("sampling.max_length", sampling.max_length, accepted)
    return trained, sampling


def load_run_config(run: str | None) -> RLHFConfig:
    """The settings a run directory was made with."""
    if run is None:
        raise ConfigError("run", run, "give the directory of a finished run, run=outputs/rlhf/...")
    stored = stored_config("run", run)
    if not RunDir(run).params("policy").is_file():
        remedy = f"finish it with python -m experiments.rlhf resume={run}"
        raise ConfigError(
            "run", run, f"the run is not finished (no checkpoints/policy.safetensors); {remedy}"
        )
    schema = open_to_choice(thawed(RLHFConfig))
    schema.task = thawed(SCHEMAS["task", f"base_{stored.task.name}"])
    schema.algo = thawed(algo_of(stored.get("algo", {}))[1])
    try:
        return OmegaConf.to_object(OmegaConf.merge(schema, stored))  # pyright: ignore
    except OmegaConfBaseException as error:
        settings = OmegaConf.to_container(stored, resolve=False)
        assert isinstance(settings, dict)
        reason = one_line(error, [*overrides_of(settings)])
        accepted = f"its .hydra/config.yaml is not of this version ({reason})"
        raise ConfigError("run", run, accepted) from None


def quoted(arguments: list[str]) -> list[str]:
    """Quotes `prompt=...` for Hydra, so that commas, apostrophes and numbers are plain text.

    >>> quoted(["prompt=it was good, and", "seed=1"])
    ['prompt="it was good, and"', 'seed=1']
    """

    def quote(argument: str) -> str:
        key, _, value = argument.partition("=")
        if key != "prompt" or value[:1] in ("'", '"') or value == "null":
            return argument
        escaped = value.replace('\\"', '\\\\"').replace('"', '\\"')
        return f'prompt="{escaped}"'

    return [quote(a) for a in arguments]


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:])
    launch(main, "generate", GenerateConfig)
