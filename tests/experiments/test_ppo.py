"""What experiments.ppo composes to: every environment and recipe; CleanRL's numbers."""

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf

from experiments._schemas import SCHEMAS, names_of, register_schemas
from experiments.ppo import ENVS
from rlhf_jax.checks.classic import check_classic
from rlhf_jax.config import ClassicConfig, GridworldConfig, GymnaxConfig, ProbeConfig


@pytest.fixture(scope="module", autouse=True)
def schemas():
    """The environments are known while these tests run, as in the program itself."""
    SCHEMAS.update(ENVS)
    register_schemas(base_ppo=ClassicConfig)
    with initialize_config_module("configs", version_base="1.3"):
        yield
    for key in ENVS:
        SCHEMAS.pop(key)


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
