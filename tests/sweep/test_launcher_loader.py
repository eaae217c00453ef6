import pytest
from hydra import initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from experiments._schemas import register_schemas
from rlhf_jax.config import RLHFConfig
from rlhf_jax.sweep.loader import Composer
from rlhf_jax.sweep.register import register

BATCH = [
    ["seed=0", "algo.clip_eps=0.1", "model=tiny"],
    ["seed=1", "algo.clip_eps=0.2", "model=tiny"],
    ["seed=1", "algo.clip_eps=0.2", "model=small"],
    ["seed=2", "algo.clip_eps=0.3", "model=small"],
    ["seed=3", "task=imdb", "algo.missing_eos=none", "run.threads=null"],
    ["seed=4", "task=bandit", "algo.missing_eos=subtract", "run.threads=2"],
    ["seed=5", "task=bandit", "algo.missing_eos=subtract", "run.threads=null"],
    ["seed=6", "sink.project='a, b'", "sink.group=${sink.project}"],
    ["seed=7", "sink.project=c", "sink.group=x"],
    ["seed=8", "hydra.sweep.subdir=here"],
    ["seed=9", "hydra.sweep.subdir=there"],
    ["+sink.x=1"],
    ["+sink.x=2"],
]


@pytest.fixture(scope="module")
def hydra_loader():
    register_schemas(base_rlhf=RLHFConfig)
    register()
    with initialize_config_module("configs", version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture(scope="module")
def master(hydra_loader):
    config = hydra_loader.load_configuration("rlhf", ["algo.updates=7"], RunMode.MULTIRUN)
    assert config.hydra.sweep.dir  # resolved once for all jobs
    return config


def test_every_job_is_as_hydra_composes_it(hydra_loader, master):
    composer = Composer(hydra_loader)
    for overrides in BATCH:
        found = composer.job(master, overrides)
        wanted = hydra_loader.load_sweep_config(master, list(overrides))
        assert OmegaConf.to_container(found) == OmegaConf.to_container(wanted)
        assert OmegaConf.get_type(found) == OmegaConf.get_type(wanted)
        assert found.hydra.sweep.dir == master.hydra.sweep.dir
    assert len(composer.stems) == 9  # of 13 jobs


@pytest.mark.parametrize("wrong", ["algo.clip_eps=wide", "algo.nothing=1", "model=huge"])
def test_an_error_waits_for_its_job(hydra_loader, master, wrong):
    composer = Composer(hydra_loader)
    composer.job(master, ["seed=1", "algo.clip_eps=0.1"])
    assert composer.load_sweep_config(master, ["seed=1", wrong]) is None
    with pytest.raises(HydraException):
        composer.job(master, ["seed=1", wrong])
    assert composer.job(master, ["seed=1", "algo.clip_eps=0.2"]).algo.clip_eps == 0.2


def test_a_copy_leaves_its_stem_alone(hydra_loader, master):
    composer = Composer(hydra_loader)
    first = composer.job(master, ["seed=1"])
    first.seed = 5
    assert composer.job(master, ["seed=2"]).seed == 2
    assert composer.job(master, ["seed=1"]).seed == 1 and first.seed == 5
