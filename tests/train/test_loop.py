"""The host loop: a run that stops and goes on is the same run."""

import dataclasses
import json
import os
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.config import RunConfig, UserError, split_dynamic
from rlhf_jax.io.checkpoint import CheckpointStore
from rlhf_jax.io.run_dir import RunDir
from rlhf_jax.io.sinks import jsonl_sink
from rlhf_jax.train import loop, policy_gradient
from rlhf_jax.train.health import Diverged, TrainingStopped, check_finite, ratio_check
from rlhf_jax.train.loop import Interrupted, Session, Stage, crosses_tenth, repeat, run_stage
from rlhf_jax.train.state import init_state, stream
from rlhf_jax.types import SpecialTokens

KEY = jax.random.key(0)


class Killed(Exception):
    """Stands for a process that dies."""


def session(path):
    run_dir = RunDir(path).create()
    run = RunConfig(progress=False, checkpoint_every=2, max_skipped=3)
    return Session(run_dir=run_dir, run=run, sink=jsonl_sink(run_dir.metrics))


def rows(path):
    """metrics.jsonl without the clock."""
    found = [json.loads(line) for line in RunDir(path).metrics.read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in found]


def bits(state):
    plain = dataclasses.replace(state, key=jax.random.key_data(state.key))
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(plain)]


def toy_start():
    return init_state({"w": jnp.zeros(3)}, optax.sgd(0.1), KEY)


def toy_advance(state, count):
    for _ in range(count):
        noise = jax.random.normal(stream(state.key, "toy", state.update), (3,))
        params = {"w": 0.9 * state.params["w"] + noise}
        state = dataclasses.replace(state, params=params, update=state.update + 1)
    return state, {"loss": jnp.sum(state.params["w"])}


def toy_stage(advance=toy_advance, **settings):
    base = Stage(name="toy", total=10, chunk=1, save_every=3, settings={"lr": 0.1}, advance=advance)
    return dataclasses.replace(base, **settings)


def dying(advance, after):
    """`advance`, but the process dies when asked for update `after` + 1."""

    def advance_or_die(state, count):
        if int(state.update) >= after:
            raise Killed
        return advance(state, count)

    return advance_or_die


@pytest.mark.parametrize("killed_after", [1, 5, 6, 9])
def test_a_killed_run_resumes_as_if_nothing_had_happened(tmp_path, killed_after):
    whole = run_stage(session(tmp_path / "whole"), toy_stage(), toy_start())
    with pytest.raises(Killed):
        stage = toy_stage(dying(toy_advance, killed_after))
        run_stage(session(tmp_path / "cut"), stage, toy_start())
    resumed = run_stage(session(tmp_path / "cut"), toy_stage(), toy_start())
    assert bits(resumed) == bits(whole)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert [row["update"] for row in rows(tmp_path / "cut")] == list(range(1, 11))


def test_a_finished_stage_is_not_run_again(tmp_path):
    done = run_stage(session(tmp_path), toy_stage(), toy_start())
    again = run_stage(session(tmp_path), toy_stage(dying(toy_advance, 0)), toy_start())
    assert bits(again) == bits(done) and len(rows(tmp_path)) == 10


def test_chunks_log_less_often_and_end_at_the_total(tmp_path):
    run_stage(session(tmp_path), toy_stage(chunk=4), toy_start())
    assert [row["update"] for row in rows(tmp_path)] == [4, 8, 10]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_ends_after_the_update_with_a_checkpoint(tmp_path, number):
    def advance(state, count):
        if int(state.update) == 4:
            os.kill(os.getpid(), number)
            os.kill(os.getpid(), number)  # passed on by a program around this one
        return toy_advance(state, count)

    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="toy stopped after update 5 of 10"):
        run_stage(session(tmp_path), toy_stage(advance, save_every=100), toy_start())
    assert signal.getsignal(number) is before
    store = CheckpointStore(RunDir(tmp_path).checkpoints / "state" / "toy")
    assert store.latest() == 5
    store.close()
    resumed = run_stage(session(tmp_path), toy_stage(), toy_start())
    assert bits(resumed) == bits(toy_advance(toy_start(), 10)[0])


def test_another_request_stops_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "TWICE", -1.0)

    def advance(state, count):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        return toy_advance(state, count)

    with pytest.raises(KeyboardInterrupt):
        run_stage(session(tmp_path), toy_stage(advance), toy_start())


def test_a_streak_of_bad_steps_stops_the_run_and_names_the_setting(tmp_path):
    def advance(state, count):
        state, metrics = toy_advance(state, count)
        return dataclasses.replace(state, skipped_in_a_row=state.update), metrics

    with pytest.raises(TrainingStopped, match=r"toy: the last 3 .*run\.max_skipped=3"):
        run_stage(session(tmp_path), toy_stage(advance), toy_start())
    assert len(rows(tmp_path)) == 3  # the row that shows it is on disk
    check_finite("toy", 2, 3)


def test_a_non_finite_metric_is_null_and_counted(tmp_path):
    advance = lambda state, count: (toy_advance(state, count)[0], {"loss": jnp.nan})
    run_stage(session(tmp_path), toy_stage(advance, total=1), toy_start())
    assert rows(tmp_path)[0]["loss"] is None and rows(tmp_path)[0]["nonfinite"] == 1


def test_evaluations_come_about_ten_times_and_at_the_end(tmp_path):
    stage = toy_stage(total=95, chunk=4, evaluate=lambda state: {"heldout": state.update})
    run_stage(session(tmp_path), stage, toy_start())
    found = [row["heldout"] for row in rows(tmp_path) if "heldout" in row]
    assert len(found) == 10 and found[-1] == 95
    assert crosses_tenth(95, 3, 95) and not crosses_tenth(8, 4, 95)


@pytest.mark.parametrize(
    "dtype, ratio, error, stops",
    [
        ("float32", 1.0 + 5e-6, 2e-5, False),
        ("float32", 1.001, 2e-5, True),
        ("float32", 0.999, 2e-5, True),
        ("float32", 1.0, 1e-2, True),  # errors of both signs cancel in the mean
        ("bfloat16", 1.001, 1e-2, False),
        ("bfloat16", 1.05, 1e-2, True),
    ],
)
def test_a_first_ratio_away_from_1_stops_the_run(tiny_config, dtype, ratio, error, stops):
    metrics = {"val/ratio_first": ratio, "val/ratio_first_error": error}
    model = dataclasses.replace(tiny_config.model, dtype=dtype)
    check = ratio_check(dataclasses.replace(tiny_config, model=model))
    if not stops:
        return check(metrics)
    with pytest.raises(TrainingStopped, match=r"val/ratio_first=.*algo\.behavior_log_probs"):
        check(metrics)


def test_a_ratio_that_is_not_finite_is_a_lost_run(tiny_config):
    metrics = {"val/ratio_first": np.nan, "val/ratio_first_error": 0.0}
    with pytest.raises(Diverged, match="val/ratio_first=nan: log-probabilities are not finite"):
        ratio_check(tiny_config)(metrics)


def test_checkpoints_of_other_settings_are_refused(tmp_path):
    run_stage(session(tmp_path), toy_stage(), toy_start())
    other = toy_stage(settings={"lr": 0.2})
    with pytest.raises(UserError, match=r"stage toy .*\(lr: 0\.1 then, 0\.2 now\)"):
        run_stage(session(tmp_path), other, toy_start())


def test_ppo_resumes_bit_for_bit(tmp_path, tiny_config, bigram_model, bigram_frozen, tiny_prompts):
    static, hparams = split_dynamic(tiny_config)
    length = lambda frozen, rollout: jnp.sum(rollout.completion_mask, axis=1, dtype=jnp.float32)
    special = SpecialTokens(pad=0, bos=1, eos=2)
    steps = policy_gradient.make_policy_gradient(
        bigram_model, static, special=special, score=length
    )
    step = jax.jit(steps.train_step)
    advance = lambda state, count: step(state, tiny_prompts, bigram_frozen, hparams)
    start = policy_gradient.init(tiny_config, bigram_frozen, KEY)
    stage = toy_stage(advance, name="ppo", total=5, save_every=2, check=ratio_check(tiny_config))
    whole = run_stage(session(tmp_path / "whole"), stage, start)
    with pytest.raises(Killed):
        cut = dataclasses.replace(stage, advance=dying(advance, 3))
        run_stage(session(tmp_path / "cut"), cut, start)
    resumed = run_stage(session(tmp_path / "cut"), stage, start)
    assert bits(resumed) == bits(whole)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert float(whole.extra["kl_coef"]) != tiny_config.algo.kl_coef  # it is part of the state


def test_an_update_is_traced_once():
    step = chex.assert_max_traces(lambda state, data, hparams: (state + data, {"x": state}), n=1)
    chex.clear_trace_counter()
    run = jax.jit(repeat(step))
    state, metrics = run(jnp.float32(1.0), jnp.float32(2.0), {}, jnp.int32(3))
    assert float(state) == 7.0 and float(metrics["x"]) == 3.0
