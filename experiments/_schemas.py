"""The schemas as Hydra knows them, and the way back from stored settings to a schema."""

from __future__ import annotations

import dataclasses
import textwrap
from collections.abc import Collection, Iterator
from importlib import resources

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

import configs
from rlhf_jax import config as schemas

SCHEMAS = {
    ("algo", "base_policy_gradient"): schemas.PolicyGradientConfig,
    ("algo", "base_preference"): schemas.PreferenceConfig,
    ("algo", "base_online_dpo"): schemas.OnlineDPOConfig,
    ("algo", "base_best_of_n"): schemas.BestOfNConfig,
    ("algo", "base_rejection"): schemas.RejectionConfig,
    ("model", "base_model"): schemas.ModelConfig,
    ("optim", "base_optim"): schemas.OptimConfig,
    ("sink", "base_sink"): schemas.SinkConfig,
    ("task", "base_reviews"): schemas.ReviewsConfig,
    ("task", "base_imdb"): schemas.ImdbConfig,
    ("task", "base_jsonl"): schemas.JsonlConfig,
    ("task", "base_automaton"): schemas.AutomatonConfig,
    ("task", "base_bandit"): schemas.BanditConfig,
    ("task", "base_token_tree"): schemas.TokenTreeConfig,
    ("task", "base_variable_length"): schemas.VariableLengthConfig,
    ("task", "base_repetition"): schemas.RepetitionConfig,
    ("task", "base_verifiable"): schemas.VerifiableConfig,
    ("env", "base_gridworld"): schemas.GridworldConfig,
    ("env", "base_gymnax"): schemas.GymnaxConfig,
    ("env", "base_probe"): schemas.ProbeConfig,
}
# What can be chosen by name: of a language model's programs, and of experiments.ppo.
GROUPS = {"preset", "experiment", "algo", "model", "optim", "sink", "task"}
CLASSIC_GROUPS = {"env", "recipe", "study", "optim", "sink"}


def names_of(group: str) -> list[str]:
    """What can be chosen of a config group."""
    folder = resources.files(configs) / group
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if ".yaml" in f.name)


def group_lines(groups: Collection[str] = GROUPS) -> str:
    """Every group with its names, for `--help`."""
    lines = [f"{group + ':':<7} {', '.join(names_of(group))}" for group in sorted(groups)]
    width = {"width": 96, "subsequent_indent": 8 * " "}
    return "\n".join(textwrap.fill(line, **width) for line in lines)


def choice_lines(config: DictConfig) -> str:
    """Every setting that takes one of a few names, with these, for `--help`."""
    lines = [f"{key}: {', '.join(names)}" for key, names in choices_of(config)]
    filled = [textwrap.fill(line, width=96, subsequent_indent=8 * " ") for line in lines]
    return "\n".join(["Those that take one of a few names:\n", *filled]) if lines else ""


def choices_of(config: DictConfig, prefix: str = "") -> Iterator[tuple[str, Collection[str]]]:
    """Settings of a composed config that take one of a few names, by their dotted keys."""
    schema = OmegaConf.get_type(config)
    known = dataclasses.fields(schema) if dataclasses.is_dataclass(schema) else ()
    choices = {f.name: f.metadata["choices"] for f in known if "choices" in f.metadata}
    for key in map(str, config):
        child = config._get_node(key)
        if isinstance(child, DictConfig) and key != "hydra" and not child._is_none():
            yield from choices_of(child, f"{prefix}{key}.")
        elif key in choices:
            yield prefix + key, choices[key]


def register_schemas(groups: Collection[str] = GROUPS, **primary: type) -> None:
    """Makes the schemas known to Hydra; `primary` names those of whole programs.

    `groups` are those `--help` lists.
    """
    listed = lambda: group_lines(groups)
    OmegaConf.register_new_resolver("rlhf_groups", listed, replace=True)
    names = lambda *, _root_: choice_lines(_root_)
    OmegaConf.register_new_resolver("rlhf_choices", names, replace=True)
    store = ConfigStore.instance()
    for (group, name), node in SCHEMAS.items():
        store.store(group=group, name=name, node=thawed(node))
    for name, node in primary.items():
        store.store(name=name, node=open_to_choice(thawed(node)))


def thawed(schema: type) -> DictConfig:
    """The schema of a frozen dataclass; composing must still be able to write to it."""
    node = OmegaConf.structured(schema)

    def thaw(part: DictConfig) -> None:
        OmegaConf.set_readonly(part, None)
        for key in part:
            child = part._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                thaw(child)

    thaw(node)
    return node


def open_to_choice(node: DictConfig) -> DictConfig:
    """The schema of a program without the kind of algorithm that is its default in Python.

    Composing may then put any other kind in its place.
    """
    if "algo" in node:
        node.algo = thawed(schemas.AlgoConfig)
    return node


def algo_of(stored: DictConfig) -> tuple[str, type]:
    """Name and schema of the kind of algorithm stored settings are of: one that has all of them."""
    kinds = {name: kind for (group, name), kind in SCHEMAS.items() if group == "algo"}
    for name, kind in kinds.items():
        if set(stored) <= {f.name for f in dataclasses.fields(kind)}:
            return name, kind
    return "base_policy_gradient", schemas.AlgoConfig
