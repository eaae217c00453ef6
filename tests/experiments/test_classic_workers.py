"""Seeds shared among worker processes: the same numbers, one record, and clear ends."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from experiments._classic_workers import lost, shares, source, worker_pieces
from experiments.ppo import worker_count
from rlhf_jax.config import (
    ClassicConfig,
    ClassicPPOConfig,
    NetworkConfig,
    ProbeConfig,
    RunConfig,
    UserError,
)
from rlhf_jax.sweep.workers import Message
from rlhf_jax.train.classic_lanes import pieces

CONFIG = ClassicConfig(
    seed=3,
    seeds=3,
    env=ProbeConfig(probe="both"),
    network=NetworkConfig(layers=1, width=8, init="lecun"),
    ppo=ClassicPPOConfig(total_steps=300, num_envs=4, num_steps=25, minibatches=2, epochs=1),
    frames=2,
    run=RunConfig(progress=False, threads=1),
)


def test_workers_give_what_one_process_gives(tmp_path):
    alone, shared = list(pieces(CONFIG)), list(source(2, tmp_path / "logs")(CONFIG))
    assert [p.done for p in alone] == [p.done for p in shared] == [0, 2, 3]
    for one, other in zip(alone, shared):
        assert one.metrics.keys() == other.metrics.keys()
        for name, values in one.metrics.items():
            np.testing.assert_allclose(other.metrics[name], values, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(
            other.params["value"]["kernel"], one.params["value"]["kernel"], atol=1e-5
        )
    assert shared[-1].metrics["episode"].shape == (3, 1)
    different = alone[-1].metrics["loss/total"]
    assert len(np.unique(different)) == 3  # or the comparison would say nothing


def test_an_error_in_a_worker_ends_the_run_in_one_line(tmp_path):
    config = dataclasses.replace(CONFIG, env=ProbeConfig(probe="nothing"))
    with pytest.raises(UserError, match=r"KeyError: 'nothing'; see .*worker_\d\.log"):
        list(worker_pieces(config, count=1, logs=tmp_path / "logs"))


def test_the_end_of_a_worker_is_told(tmp_path):
    worker = SimpleNamespace(number=1)
    told = lambda kind, content: lost(Message(worker, kind, content), tmp_path)
    assert told("died", -9) == "a worker process ended (signal 9, perhaps out of memory)"
    log = tmp_path / "worker_1.log"
    log.write_text("Traceback")
    assert told("failed", ("no such thing", "trace")) == f"no such thing; see {log}"
    assert told("refused", "run.device='gpu': use cpu") == "run.device='gpu': use cpu"


def test_seeds_are_shared_in_order():
    parts = shares(CONFIG, 2)
    assert [(p.seed, p.seeds) for p in parts] == [(3, 2), (5, 1)]


def test_who_trains():
    many = dataclasses.replace(CONFIG, run=RunConfig(device="cpu"))
    assert worker_count(dataclasses.replace(many, seeds=1)) == 1
    assert worker_count(dataclasses.replace(many, workers=2)) == 2
    assert worker_count(CONFIG) == 1  # run.threads asks for one process
    on_gpu = dataclasses.replace(many, run=RunConfig(device="gpu"))
    assert worker_count(on_gpu) == worker_count(dataclasses.replace(on_gpu, workers=2)) == 1
