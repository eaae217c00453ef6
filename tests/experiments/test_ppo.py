"""What experiments.ppo composes to: every environment and recipe; CleanRL's numbers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from experiments._schemas import CLASSIC_GROUPS, group_lines, names_of, register_schemas
from experiments.ppo import hints
from rlhf_jax.checks.classic import check_classic
from rlhf_jax.config import (
    ClassicConfig,
    ConfigError,
    GridworldConfig,
    GymnaxConfig,
    ProbeConfig,
)
from rlhf_jax.envs.make import make_env

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module", autouse=True)
def schemas():
    register_schemas(CLASSIC_GROUPS, base_ppo=ClassicConfig)
    with initialize_config_module("configs", version_base="1.3"):
        yield


def composed(*overrides):
    return OmegaConf.to_object(compose("ppo", overrides=list(overrides)))


@pytest.mark.parametrize("env", names_of("env"))
def test_every_environment_composes(env):
    config = composed(f"env={env}")
    check_classic(config)
    kind = {"gridworld": GridworldConfig, "probe": ProbeConfig}.get(env, GymnaxConfig)
    assert isinstance(config.env, kind)


@pytest.mark.parametrize("recipe", names_of("recipe"))
def test_every_recipe_composes(recipe):
    check_classic(composed(f"recipe={recipe}"))


def test_cleanrl_is_cleanrl():
    config = composed("env=cartpole", "recipe=cleanrl")
    ppo = config.ppo
    assert (ppo.total_steps, ppo.num_envs, ppo.num_steps) == (500_000, 4, 128)
    assert (ppo.epochs, ppo.minibatches, ppo.clip_eps) == (4, 4, 0.2)
    assert ppo.clip_value and not ppo.bootstrap_truncated and ppo.entropy_coef == 0.01
    assert (config.optim.learning_rate, config.optim.epsilon) == (2.5e-4, 1e-5)
    assert config.optim.anneal_per == "update" and config.optim.max_grad_norm == 0.5


def test_a_number_typed_wins_over_the_recipe():
    assert composed("recipe=cleanrl", "ppo.clip_eps=0.1").ppo.clip_eps == 0.1


@pytest.mark.parametrize("env", sorted(set(names_of("env")) - {"gridworld"}))
def test_only_the_gridworld_has_the_recipe_of_gridworlds(env):
    assert composed().ppo.whiten_advantages == "none"
    assert composed(f"env={env}").ppo.whiten_advantages == "minibatch"


def test_the_factorial_is_of_switches_that_can_be_turned_alone():
    """Those of Engstrom et al. 2020: each key is there, and each of its values can work."""
    swept = compose("ppo", ["study=engstrom"], return_hydra_config=True).hydra.sweeper.params
    arms = [f"{key}={value}" for key, values in swept.items() for value in values.split(",")]
    assert len(swept) == 5 and len(arms) == 10
    for arm in arms:
        config = composed("study=engstrom", arm)
        check_classic(config)
        assert config.seeds == 16 and config.env.name == "CartPole-v1"
    others = ["reward_clip=5", "observation_clip=5", "normalize_observations=true"]
    for other in [f"ppo.{x}" for x in others] + ["optim.max_grad_norm=null"]:
        check_classic(composed("study=engstrom", other))
    check_classic(composed("study=engstrom", "network.activation=relu"))


def test_what_changes_nothing_is_told():
    config = composed("ppo.dual_clip=2", "ppo.huber_delta=2")
    told = list(hints(config, ["ppo.dual_clip", "ppo.huber_delta", "ppo.gamma"]))
    assert [line.split()[0] for line in told] == ["ppo.dual_clip", "ppo.huber_delta"]
    with pytest.raises(ConfigError, match=r"env\.step_cost=0.*ppo\.gamma=1"):
        hints(composed("ppo.gamma=1", "env.step_cost=0"), [])


def test_the_groups_of_this_program_are_listed():
    listed = group_lines(CLASSIC_GROUPS)
    assert "cartpole" in listed and "engstrom" in listed and "reviews" not in listed


def test_without_a_name_gymnax_tells_what_it_has():
    with pytest.raises(ConfigError, match="Acrobot-v1"):
        make_env(composed("env=gymnax").env)


def test_an_unknown_environment_is_one_line(tmp_path):
    command = [sys.executable, "-m", "experiments.ppo", "env=gymnax", "env.name=CartPole-v2"]
    env = os.environ | {"PYTHONPATH": str(ROOT), "RLHF_JAX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: env.name='CartPole-v2': did you mean CartPole-v1?"), line
    assert "Acrobot-v1" in line
    assert not (tmp_path / "outputs").exists()  # it leaves nothing behind
