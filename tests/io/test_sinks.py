"""Metric sinks: the record on disk, its repair, and views that may fail."""

import builtins
import json
import sys
import time
import types

import pytest

from rlhf_jax.config import ConfigError, SinkConfig
from rlhf_jax.io import sinks
from rlhf_jax.io.run_dir import RunDir

ROW = {"stage": "ppo", "update": 1, "episode": 64, "seconds": 0.5, "objective/kl": 0.25}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_row_is_on_disk_at_once(path):
    sink = sinks.jsonl_sink(path)
    sink.log(ROW | {"loss": float("nan")})
    assert rows_of(path) == [ROW | {"loss": None, "nonfinite": 1}]
    sink.close()


def test_appends_after_a_half_written_line(path):
    path.write_text('{"stage": "ppo", "upd')
    sink = sinks.jsonl_sink(path)
    sink.log(ROW)
    sink.close()
    assert list(sinks.read_rows(path)) == [ROW]


def test_truncate_after_drops_only_later_rows_of_the_stage(path):
    rows = [{"stage": s, "update": u} for s, u in [("sft", 9), ("ppo", 1), ("ppo", 2), ("ppo", 3)]]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"stage": "ppo", "up')
    assert sinks.truncate_after(path, "ppo", 1) == 2
    assert rows_of(path) == rows[:2]
    assert sinks.truncate_after(path.with_name("none.jsonl"), "ppo", 1) == 0


def test_a_failing_view_is_reported_once_and_the_record_goes_on(path, capsys):
    def fail(row):
        raise OSError("network lost\nand more")

    view = sinks.guarded(sinks.Sink(fail, lambda failed=False: None), "wandb")
    sink = sinks.all_of(sinks.jsonl_sink(path), view)
    for update in range(3):
        sink.log(ROW | {"update": update})
    sink.close()
    assert len(rows_of(path)) == 3
    assert capsys.readouterr().err == (
        "warning: wandb stopped (network lost); metrics.jsonl goes on\n"
    )


def test_make_sinks_jsonl_and_unknown(tmp_path):
    sink = sinks.make_sinks(SinkConfig(), RunDir(tmp_path), {})
    sink.log(ROW)
    sink.close()
    assert rows_of(tmp_path / "metrics.jsonl") == [ROW]
    with pytest.raises(ConfigError, match=r"sink\.kind='mlflow': one of jsonl, wandb, tensorboard"):
        sinks.make_sinks(SinkConfig(kind="mlflow"), RunDir(tmp_path), {})


def test_an_open_sink_goes_on_in_the_truncated_file(path):
    sink = sinks.jsonl_sink(path)
    for update in (1, 2):
        sink.log(ROW | {"update": update})
    sinks.truncate_after(path, "ppo", 1)
    sink.log(ROW | {"update": 2, "episode": 0})
    sink.close()
    assert [r["episode"] for r in rows_of(path)] == [64, 0]


@pytest.fixture
def no_wandb_login(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:pydantic")
def test_wandb_offline_writes_a_run_folder(tmp_path, no_wandb_login):
    config = SinkConfig(kind="wandb", mode="offline", group="g")
    sink = sinks.make_sinks(config, RunDir(tmp_path), {"seed": 1, "algo": {"clip_eps": 0.2}})
    sink.log(ROW)
    sink.log(ROW | {"stage": "sft", "update": 0, "loss": float("nan")})
    sink.close()
    (run,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 20  # W&B's own process writes a moment after `finish`
    while b"objective/kl" not in run.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert b"objective/kl" in run.read_bytes() and b"sft/loss" not in run.read_bytes()
    assert len(rows_of(tmp_path / "metrics.jsonl")) == 2
    assert run.name == f"run-{(tmp_path / 'wandb_run_id').read_text()}.wandb"
    sinks.make_sinks(config, RunDir(tmp_path), {}).close(failed=True)
    assert {p.name for p in (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")} == {run.name}


class FakeRun:
    """A W&B run that keeps what it is told."""

    def __init__(self, step=0):
        self.id, self.url, self.step = "abc123", "https://example.org", step
        self.steps, self.exit_code = [], None

    def log(self, metrics, step):
        self.steps.append(step)

    def finish(self, exit_code):
        self.exit_code = exit_code


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_a_resumed_run_goes_on_in_its_wandb_run(tmp_path, monkeypatch, mode):
    asked, runs = [], [FakeRun(), FakeRun(step=5 if mode == "online" else 0)]

    def init(**settings):
        asked.append({k: settings[k] for k in ("id", "resume") if k in settings})
        return runs[len(asked) - 1]

    fake = types.SimpleNamespace(login=lambda **_: True, Settings=dict, init=init)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    config = SinkConfig(kind="wandb", mode=mode)
    for failed in (True, False):
        sink = sinks.make_sinks(config, RunDir(tmp_path), {})
        sink.log(ROW)
        sink.log(ROW)
        sink.close(failed=failed)
    assert asked[0] == {} and asked[1]["id"] == "abc123"
    assert asked[1].get("resume") == ("allow" if mode == "online" else None)
    # W&B drops a step it has passed; the server knows best where it stands.
    assert [run.steps for run in runs] == [[0, 1], [5, 6] if mode == "online" else [2, 3]]
    assert [run.exit_code for run in runs] == [1, 0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning:wandb")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:pydantic")
def test_wandb_online_without_login_names_the_remedy(tmp_path, no_wandb_login):
    with pytest.raises(ConfigError, match=r"sink\.mode='online'.*sink\.mode=offline"):
        sinks.make_sinks(SinkConfig(kind="wandb"), RunDir(tmp_path), {})


def test_tensorboard_missing_names_the_extra(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("tensorboardX"):
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'rlhf_jax\[tensorboard\]'"):
        sinks.make_sinks(SinkConfig(kind="tensorboard"), RunDir(tmp_path), {})


def test_tensorboard_gets_each_metric_at_its_update(tmp_path, monkeypatch):
    seen = []

    class Writer:
        def __init__(self, logdir, flush_secs):
            seen.append(logdir)

        def add_scalar(self, name, value, step):
            seen.append((name, value, step))

        def close(self):
            seen.append("closed")

    fake = types.SimpleNamespace(SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, "tensorboardX", fake)
    sink = sinks.tensorboard_sink(tmp_path)
    sink.log({"stage": "sft", "update": 7, "loss": 2.0})
    sink.close()
    assert seen == [str(tmp_path / "tensorboard"), ("sft/loss", 2.0, 7), "closed"]
