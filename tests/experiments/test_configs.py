"""What the configuration files compose to: every algorithm, task and preset; what is refused."""

import dataclasses
import functools
import math
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from experiments._errors import check_choices, one_line
from experiments._schemas import GROUPS, group_lines, register_schemas
from rlhf_jax.checks import check_config
from rlhf_jax.config import (
    ConfigError,
    ModelConfig,
    OptimConfig,
    PolicyGradientConfig,
    RewardModelConfig,
    RLHFConfig,
    SamplingConfig,
)

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
SCHEMAS = {
    "algo": PolicyGradientConfig,
    "model": ModelConfig,
    "sampling": SamplingConfig,
    "optim": OptimConfig,
    "reward_model": RewardModelConfig,
}
UNDISPUTED = {
    # the size of the work
    "algo": {"name", "updates", "batch_size", "group_size", "dynamic_sampling"}
    # read under choices that no preset makes
    | {"penalty_coef", "penalty_target", "baseline_decay", "group_std_epsilon"}
    | {"huber_delta", "overlong_penalty"},
    "model": {f.name for f in dataclasses.fields(ModelConfig)} - {"value_head", "value_init"},
    "sampling": {"min_length", "max_length"},
    "optim": {"learning_rate"},
    "reward_model": {"steps", "batch_size", "log_every", "optim"},
}
DEFAULTS = {
    f"{group}.{f.name}": f.default
    for group, schema in SCHEMAS.items()
    for f in dataclasses.fields(schema)
    if f.name not in UNDISPUTED[group]
}  # of every disputed switch; one that is new must be decided for each preset, or listed above


def names(group):
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


PRESETS = [name for name in names("preset") if name != "none"]
TASKS = ["reviews", "imdb"]
JSONL = ("task=jsonl", "task.prompts=prompts.jsonl", "task.preferences=pairs.jsonl")


@pytest.fixture(scope="module")
def composed():
    """The settings of experiments.rlhf that overrides lead to."""
    register_schemas(base_rlhf=RLHFConfig)

    @functools.cache
    def build(*overrides):
        return OmegaConf.to_object(compose("rlhf", overrides=list(overrides)))

    with initialize_config_module("configs", version_base="1.3"):
        yield build


def with_setting(config, key, value):
    head, _, rest = key.partition(".")
    if rest:
        value = with_setting(getattr(config, head), rest, value)
    return dataclasses.replace(config, **{head: value})


def value_of(config, key):
    for name in key.split("."):
        config = getattr(config, name)
    return config


def settings(preset):
    """What a preset's file sets, as {dotted key: value}."""
    groups = OmegaConf.to_container(OmegaConf.load(CONFIGS / "preset" / f"{preset}.yaml"))
    return {f"{group}.{k}": v for group, values in groups.items() for k, v in values.items()}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("algo", names("algo"))
def test_every_algorithm_runs_on_every_task_under_its_own_name(composed, algo, task):
    config = composed(f"algo={algo}", f"task={task}")
    check_config(config)
    assert config.algo.name == algo and config.task.name == task


@pytest.mark.parametrize("typed", [JSONL, (*JSONL, "preset=nplus"), ("model=base",)])
def test_files_of_the_users_own_and_other_sizes_pass(composed, typed):
    check_config(composed(*typed))


def test_there_are_the_presets_we_promise():
    promised = {"oai2019", "trl07", "trl1", "nplus", "openrlhf", "verl", "tunix", "cleanrl"}
    assert set(PRESETS) == promised


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_runs_on_every_task_and_has_the_last_word(composed, preset, task):
    config = composed(f"preset={preset}", f"task={task}")
    check_config(config)
    found = {key: value_of(config, key) for key in settings(preset)}
    assert found == settings(preset) and config.algo.name == "ppo"


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_sets_every_disputed_switch_and_no_size_of_the_work(preset):
    found = settings(preset)
    ends = {"sampling.min_length"} if found["algo.missing_eos"] != "none" else set()
    assert found.keys() == DEFAULTS.keys() | ends


@pytest.mark.parametrize("preset", PRESETS)
def test_every_value_of_a_preset_has_its_source_beside_it(preset):
    lines = (CONFIGS / "preset" / f"{preset}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    values = [line for line in lines if re.match(r"  \w+:", line)]
    assert len(values) == len(settings(preset))
    assert [line for line in values if not re.search(r"\S  *# \S", line)] == []
    header = "\n".join(line for line in lines if line.startswith("#"))
    for promise in ("Not set, the size of the work:", "Fixed, not copied:", "Not reproduced:"):
        assert promise in header


# Without a KL to the reference there is nothing for a controller to steer.
STUCK = {("verl", "algo.kl_controller"), ("cleanrl", "algo.kl_controller")}


@pytest.mark.parametrize("preset", PRESETS)
def test_any_one_detail_of_a_preset_can_be_left_out(composed, preset):
    config = composed(f"preset={preset}", "task=reviews")
    refused = set()
    for key, default in DEFAULTS.items():
        try:
            check_config(with_setting(config, key, default))
        except ConfigError:
            refused.add((preset, key))
    assert refused == {pair for pair in STUCK if pair[0] == preset}


def refusal(composed, *overrides):
    """The one line of a composition that cannot work."""
    try:
        check_config(composed(*overrides))
    except (ConfigError, HydraException) as error:
        return one_line(error, overrides)
    pytest.fail(f"{' '.join(overrides)} is not refused")


@pytest.mark.parametrize("algo", sorted(set(names("algo")) - {"ppo"}))
def test_a_preset_is_refused_for_an_algorithm_it_is_not_made_for(algo):
    with pytest.raises(ConfigError, match=r"preset='trl1': presets are for algo=ppo; leave out"):
        check_choices([f"algo={algo}", "preset=trl1"], GROUPS)
    check_choices([f"algo={algo}", "preset=none"], GROUPS)


REFUSED = {
    # what is typed: the start of the line
    "preset=ppo": "preset=ppo: must be one of cleanrl, none, nplus, oai2019",
    "algo=trpo": "algo=trpo: must be one of best_of_n, cdpo",
    "preset=oai2019 algo.minibatches=3": "algo.minibatches=3: must divide algo.batch_size=128",
    "preset=verl algo.kl_controller=adaptive": "algo.kl_controller='adaptive': there is no KL",
    "preset=trl1 task=imdb sampling.min_length=24": "algo.missing_eos='subtract': ",
    "preset=oai2019 model.dtype=bfloat16": "algo.behavior_log_probs='sampler': use forward",
    "preset=openrlhf algo.advantage=rloo algo.group_size=4": "optim.value_rate_factor=9.0: ",
    "task=imdb algo.missing_eos=subtract": "algo.missing_eos='subtract': sampling.min_length=24",
    "algo=dapo algo.surrogate=clip": "algo.clip_eps_high=0.28: clip has none",
    "algo=online_dpo algo.batch_size=9": "algo.batch_size=9: must be even",
}


EXPERIMENTS = [name for name in names("experiment") if name != "small"]


def ends(override):
    """The values of a sweep; of an interval its ends."""
    if override.is_interval_sweep():
        return [override.value().start, override.value().end]
    return list(override.sweep_iterator())


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_value_of_an_experiment_can_work_and_its_runs_are_counted(composed, name):
    path = CONFIGS / "experiment" / f"{name}.yaml"
    sweeper = OmegaConf.load(path).hydra.sweeper
    typed = [f"{key}={value}" for key, value in sweeper.params.items()]
    swept = {o.get_key_element(): ends(o) for o in OverridesParser.create().parse_overrides(typed)}
    for key, values in swept.items():
        for value in values:
            check_config(composed("experiment=small", f"{key}={value}"))
    runs = sweeper.get("n_trials") or math.prod(map(len, swept.values()))
    table_row = table((ROOT / "docs" / "sweeps.md").read_text(), "Ready-made questions")[name]
    assert table_row[-1] == str(runs)
    assert sweeper.get("n_trials") or f"{runs} runs" in path.read_text()


def test_the_schemas_behind_the_groups_are_no_choice():
    with pytest.raises(ConfigError, match=r"algo='base_rejection': must be one of best_of_n, cdpo"):
        check_choices(["algo=base_rejection"], GROUPS)
    listed = group_lines()
    assert "base_" not in listed and all(f"{group}:" in listed for group in GROUPS)
    assert set(names("algo")) <= set(re.findall(r"\w+", listed))


@pytest.mark.parametrize("typed", REFUSED)
def test_what_cannot_work_is_one_line(composed, typed):
    line = refusal(composed, *typed.split())
    assert line.startswith(REFUSED[typed]) and "\n" not in line


def table(page, heading):
    """The rows of the first table under a heading of a page, as {first cell: other cells}."""
    lines = page[page.index(f"## {heading}") :].splitlines()
    rows = [re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines if line.startswith("|")]
    return {row[0].strip("`"): [cell.strip() for cell in row[1:]] for row in rows}


def as_cell(value):
    """A value as the page writes it."""
    words = {None: "-", True: "yes", False: "no"}
    if value is None or isinstance(value, bool):
        return words[value]
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_the_page_of_switches_says_what_the_presets_set():
    page = table((ROOT / "docs" / "switches.md").read_text(), "What each preset sets")
    order = page.pop("switch")
    assert sorted(order) == sorted(PRESETS)
    values = {name: settings(name) for name in PRESETS}
    differ = {k for k in DEFAULTS if len({repr(values[name][k]) for name in PRESETS}) > 1}
    wanted = {k: [as_cell(values[name][k]) for name in order] for k in differ}
    assert {k: v for k, v in page.items() if "." in k} == wanted


def test_the_page_of_switches_has_every_numbered_detail():
    page = table((ROOT / "docs" / "switches.md").read_text(), "What is disputed")
    assert [n for n in range(1, 29) if str(n) not in page] == []
    known = {f"{g}.{f.name}" for g, schema in SCHEMAS.items() for f in dataclasses.fields(schema)}
    text = " ".join(" ".join(cells) for cells in page.values())
    named = set(re.findall(r"`((?:algo|model|sampling|optim|reward_model)\.\w+)", text))
    assert len(named) > 30 and named <= known
