"""A resumed run has the settings it was started with, whatever the defaults are now."""

import re

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from experiments._overrides import literal
from experiments._resume import resumed
from experiments._schemas import GROUPS, names_of, register_schemas
from rlhf_jax.config import ConfigError, RLHFConfig

ODD = [
    "", " ", "null", "true", "1e-08", "3", "a b", " a ", "a,b", "a: b", "{a: 1}", "[1, 2]", "(a)",
    "it's", '"', "'", "\\", "a\\", "\\'", '\\\\"', "a=b", "%d#$@!?|*", "a\nb", "ü 漢", "${seed}",
    "\\${seed}", "choice(1,2)", "~x", "+x", "-m", "C:\\runs\\new",
]  # fmt: skip


@pytest.fixture(scope="module")
def composed():
    """Composes the settings of experiments.rlhf."""
    register_schemas(base_rlhf=RLHFConfig)
    with initialize_config_module("configs", version_base="1.3"):
        yield lambda overrides: compose("rlhf", overrides=overrides)


def store(config, folder):
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    return str(folder)


def again(composed, arguments):
    """What is composed from the arguments of a resumed run, its directory left out."""
    *overrides, resume, folder = resumed(arguments, GROUPS)
    assert resume.startswith("resume=") and folder.startswith("hydra.run.dir=")
    return composed(overrides)


@pytest.mark.parametrize("text", ODD)
def test_any_text_is_read_back(composed, text):
    found = composed([f"sink.project={literal(text)}", f"sink.group={literal(text)}"]).sink
    raw = OmegaConf.to_container(found, resolve=False)
    assert raw["project"] == raw["group"] == text


@pytest.mark.parametrize("text", ODD)
def test_any_text_survives_the_file(composed, tmp_path, text):
    config = composed([f"sink.project={literal(text)}"])
    found = again(composed, [f"resume={store(config, tmp_path / 'run')}"])
    raw = OmegaConf.to_container(found, resolve=False)
    assert raw == OmegaConf.to_container(config, resolve=False)


@pytest.mark.parametrize("value", [1e-8, 1e20, 0.1, -3.0, float("inf")])
def test_any_number_is_read_back(composed, value):
    assert composed([f"algo.kl_target={literal(value)}"]).algo.kl_target == value


@pytest.mark.parametrize("task", names_of("task"))
def test_every_setting_is_restored_even_if_the_defaults_changed(composed, tmp_path, task):
    config = composed([f"task={task}", "model=base", "sink=wandb"])
    config.algo.kl_coef, config.sft.optim.epsilon, config.run.cache = 0.123, 1e-11, False
    config.task.num_pairs, config.seed, config.run.threads = 17, 5, 3  # as if from older files
    assert again(composed, [f"resume={store(config, tmp_path / 'run')}"]) == config


@pytest.mark.parametrize("algo", ["grpo", "dpo", "simpo", "online_dpo", "best_of_n", "rejection"])
def test_every_algorithm_is_found_again(composed, tmp_path, algo):
    config = composed([f"algo={algo}"])
    config.algo.updates = 7
    run = f"resume={store(config, tmp_path / 'run')}"
    assert again(composed, [run, f"algo={algo}"]) == config
    with pytest.raises(ConfigError, match=f"is a run of algo={algo}"):
        resumed([run, "algo=ppo"], GROUPS)


def test_what_is_typed_beside_it_wins(composed, tmp_path):
    run = store(composed(["algo.updates=3", "sink.group=mine", "model=small"]), tmp_path / "a, b")
    typed = ["algo.updates=7", f"resume={literal(run)}", "sink=wandb", "task=reviews"]
    found = again(composed, typed)
    assert found.algo.updates == 7 and found.model.width == composed(["model=small"]).model.width
    assert found.sink.kind == "wandb" and found.sink.group is None  # chosen anew


def test_flags_stay_behind_the_overrides(tmp_path):
    run = store({"seed": 1, "task": {"name": "reviews"}}, tmp_path / "run")
    wanted = ["task=reviews", "seed=1", "task.name='reviews'"]
    found = resumed(["--cfg", "job", f"resume={run}"], GROUPS)
    assert found == [*wanted, f"resume='{run}'", f"hydra.run.dir='{run}'", "--cfg", "job"]
    assert resumed(["seed=1", "resume=null"], GROUPS) == ["seed=1", "resume=null"]


@pytest.mark.parametrize(
    "further, message",
    [
        ("preset=trl1", "leave it out"),
        ("-m", "leave out -m"),
        ("task=imdb", "task='imdb': .* is a run of task=reviews"),
    ],
)
def test_what_cannot_be_resumed_is_refused(tmp_path, further, message):
    run = store({"task": {"name": "reviews"}}, tmp_path / "run")
    with pytest.raises(ConfigError, match=message):
        resumed([f"resume={run}", further], GROUPS)


@pytest.mark.parametrize(
    "stored, message",
    [
        ({"seed": 1}, "task.name=None"),
        ({"task": {"name": "poems"}}, "not one of automaton, bandit, imdb"),
    ],
)
def test_a_directory_of_another_kind_is_refused(tmp_path, stored, message):
    run = store(stored, tmp_path / "run")
    with pytest.raises(ConfigError, match=re.escape(message)):
        resumed([f"resume={run}"], GROUPS)
    with pytest.raises(ConfigError, match=re.escape("(no .hydra/config.yaml)")):
        resumed([f"resume={tmp_path}"], GROUPS)
