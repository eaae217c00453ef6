"""The launcher `lanes`, with an engine that only writes what it was given."""

import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import run_job
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from omegaconf import OmegaConf, open_dict

from experiments._cli import launch
from experiments._leftovers import report
from experiments.rlhf import check, main
from rlhf_jax.config import RLHFConfig
from rlhf_jax.sweep import executors
from rlhf_jax.sweep import jobs as engine
from rlhf_jax.sweep.distribute import Groups
from rlhf_jax.sweep.jobs import DIVERGED, FAILED, FINISHED, JobEnd
from rlhf_jax.sweep.register import ALIAS, named

CALLBACK = """
from pathlib import Path
from hydra.experimental.callback import Callback

class Told(Callback):
    def on_multirun_start(self, config, **kwargs):
        self.lines = []
    def on_job_start(self, config, **kwargs):
        self.lines.append(f"start {config.hydra.job.num}")
    def on_job_end(self, config, job_return, **kwargs):
        value = job_return._return_value
        self.lines.append(f"{job_return.status.name} {type(value).__name__}")
    def on_multirun_end(self, config, **kwargs):
        Path("told.txt").write_text("\\n".join([*self.lines, "end"]))
"""


class Engine:
    """Stands in for `run_jobs`: gives each job a number, or the end its seed is to have."""

    def __init__(self):
        self.calls = []
        self.ends = {}  # by seed
        self.stop_after = None  # jobs, then Ctrl-C

    def __call__(self, jobs, root):
        assert all((job.path / ".hydra" / "overrides.yaml").is_file() for job in jobs)
        self.calls.append([job.number for job in jobs])
        return [self.end(job) for job in jobs]

    def end(self, job):
        if self.stop_after is not None and job.number >= self.stop_after:
            raise KeyboardInterrupt
        status = self.ends.get(job.config.seed, FINISHED)
        if status == FAILED:
            (job.path / "error.json").write_text(
                json.dumps({"status": FAILED, "error": "it broke"})
            )
            return JobEnd(job.number, FAILED, "it broke", None)
        value = None if status == DIVERGED else job.config.seed + job.config.algo.clip_eps
        after = {} if value is None else {job.config.sweep.objective: value}
        (job.path / "summary.json").write_text(json.dumps({"status": status, "after": after}))
        return JobEnd(job.number, status, None, value)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Starts experiments.rlhf in an empty folder; (exit code, lines of the error stream)."""
    monkeypatch.chdir(tmp_path)
    found = Engine()
    monkeypatch.setattr(engine, "run_jobs", found)
    reports = []
    monkeypatch.setattr("experiments._cli.report", lambda root: reports.append(root) or [])

    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["rlhf", *arguments])
        try:
            launch(main, "rlhf", RLHFConfig, resumable=True, check=check)
            code = 0
        except SystemExit as stop:
            code = stop.code
        finally:
            logging.shutdown()
        return code, [line for line in capsys.readouterr().err.splitlines() if line.strip()]

    start.engine, start.reports = found, reports
    return start


def test_a_grid_is_one_batch_with_a_directory_for_each_job(run, tmp_path):
    code, errors = run("-m", "hydra.sweep.dir=s", "algo.clip_eps=0.1,0.2", "seed=range(3)")
    assert (code, errors) == (0, [])
    assert run.engine.calls == [[0, 1, 2, 3, 4, 5]]
    assert [str(root) for root in run.reports] == ["s"]
    stored = yaml.safe_load((tmp_path / "s" / "4" / ".hydra" / "config.yaml").read_text())
    assert (stored["seed"], stored["algo"]["clip_eps"]) == (1, 0.2)
    overrides = yaml.safe_load((tmp_path / "s" / "4" / ".hydra" / "overrides.yaml").read_text())
    assert overrides == ["algo.clip_eps=0.2", "seed=1"]
    own = yaml.safe_load((tmp_path / "s" / "4" / ".hydra" / "hydra.yaml").read_text())["hydra"]
    assert own["job"]["num"] == 4 and own["runtime"]["output_dir"] == str(tmp_path / "s" / "4")
    assert (tmp_path / "s" / "4" / "rlhf.log").is_file()
    assert (tmp_path / "s" / "multirun.yaml").is_file()


def test_batches_number_on_and_earlier_jobs_stay(run, tmp_path):
    assert run("-m", "hydra.sweep.dir=s", "seed=range(5)", "hydra.sweeper.max_batch_size=2")[0] == 0
    assert run.engine.calls == [[0, 1], [2, 3], [4]]
    assert len(run.reports) == 1 and len(list(tmp_path.glob("s/*/summary.json"))) == 5


def test_callbacks_hear_of_every_job_and_of_the_failed_one(run, tmp_path, monkeypatch):
    (tmp_path / "telling.py").write_text(CALLBACK)
    monkeypatch.syspath_prepend(str(tmp_path))
    run.engine.ends = {1: FAILED}
    code, errors = run(
        "-m", "hydra.sweep.dir=s", "seed=0,1,2", "+hydra.callbacks.x._target_=telling.Told"
    )
    assert (code, errors) == (2, ["error: s/1 (seed=1): it broke"])
    lines = (tmp_path / "told.txt").read_text().splitlines()
    good = ["COMPLETED float"]
    wanted = ["start 0", *good, "start 1", "FAILED JobFailed", "start 2", *good, "end"]
    assert lines == wanted and len(run.reports) == 1


def test_every_wrong_job_is_named_before_anything_runs(run, tmp_path):
    code, errors = run("-m", "algo.minibatches=3,4", "algo.updates=many,5", "seed=0,-1")
    assert code == 2 and run.engine.calls == run.reports == []
    assert errors == [
        "error: algo.updates='many': must be an int "
        "(4 of 8 jobs; the first is job 0 (algo.minibatches=3 algo.updates=many seed=0))",
        "error: job 2 (algo.minibatches=3 algo.updates=5 seed=0): algo.minibatches=3: must divide "
        "algo.batch_size=128 (one of [1, 2, 4, 8, 16, 32, 64, 128])",
        "error: seed=-1: must be 0 or above and below 2**32 "
        "(2 of 8 jobs; the first is job 3 (algo.minibatches=3 algo.updates=5 seed=-1))",
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "typed, line",
    [
        ("algo.updats=3", "error: algo.updats=3: unknown key; did you mean algo.updates?"),
        ("+algo.nothing=3", "error: algo.nothing=3: unknown key; "),
        ("algo.minibatches=3", "error: algo.minibatches=3: must divide algo.batch_size=128"),
        ("hydra.sweep.subdir=x", "error: hydra.sweep.subdir: must differ from job to job"),
        ("task=poems", "error: task=poems: must be one of automaton"),
    ],
)
def test_what_is_wrong_in_all_jobs_is_said_once_and_leaves_nothing(run, tmp_path, typed, line):
    code, errors = run("-m", typed, "seed=0,1")
    assert code == 2 and len(errors) == 1 and errors[0].startswith(line), errors
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_of_the_users_own_stays(run, tmp_path):
    (tmp_path / "mine").mkdir()
    assert run("-m", "hydra.sweep.dir=mine", "seed=-1,0")[0] == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_settings_that_change_nothing_are_named_once(run):
    code, errors = run("-m", "algo.surrogate=clip,none", "algo.clip_eps=0.1,0.2")
    assert code == 0 and errors == [
        "warning: algo.clip_eps changes nothing here: algo.surrogate=none does not clip "
        "(2 of 4 jobs; the first is job 2)"
    ]


def test_diverged_jobs_are_counted_and_are_no_error(run):
    run.engine.ends = {1: DIVERGED}
    code, errors = run("-m", "hydra.sweep.dir=s", "seed=0,1,2")
    assert (code, errors) == (0, ["warning: 1 of 3 jobs diverged; the first is s/1"])


SWEEP = ("-m", "hydra.sweep.dir=s", "seed=range(4)", "algo.kl_coef=0.2")


def interrupted(run):
    """A sweep in `s` that was stopped after its first two jobs."""
    run.engine.stop_after = 2
    code, errors = run(*SWEEP)
    assert (code, errors) == (2, ["error: interrupted; go on with -m resume=s"])
    assert len(run.reports) == 1
    run.engine.stop_after = None
    run.engine.calls.clear()


def test_a_stopped_sweep_is_gone_on_with(run, tmp_path):
    interrupted(run)
    assert run("-m", "resume=s") == (0, [])
    assert run.engine.calls == [[2, 3]]
    assert len(list(tmp_path.glob("s/*/summary.json"))) == 4
    stored = yaml.safe_load((tmp_path / "s" / "3" / ".hydra" / "config.yaml").read_text())
    assert (stored["seed"], stored["algo"]["kl_coef"], stored["resume"]) == (3, 0.2, None)
    assert run("-m", "resume=s") == (0, [])  # again, with nothing left to do
    assert run.engine.calls == [[2, 3]]


def test_it_may_be_run_in_another_way_but_computes_the_same(run, tmp_path):
    interrupted(run)
    assert run("-m", "resume=s", "sweep.max_lanes=1") == (0, [])
    files = {p: p.read_bytes() for p in tmp_path.glob("s/**/*.yaml")}
    for typed in ("algo.kl_coef=0.3", "seed=7", "sweep.objective=x", "run.matmul_precision=x"):
        code, errors = run("-m", "resume=s", typed)
        key = typed.partition("=")[0]
        assert code == 2 and len(errors) == 1
        assert errors[0].startswith(f"error: {key}=") and "s keeps its settings" in errors[0]
    assert {p: p.read_bytes() for p in tmp_path.glob("s/**/*.yaml")} == files


def test_it_is_refused_where_the_defaults_have_changed_since(run, tmp_path):
    interrupted(run)
    path = tmp_path / "s" / "3" / ".hydra" / "config.yaml"
    path.write_text(path.read_text().replace("clip_eps: 0.2", "clip_eps: 0.25"))
    files = {p: p.read_bytes() for p in tmp_path.glob("s/**/*.yaml")}
    code, errors = run("-m", "resume=s")
    wanted = "algo.clip_eps=0.2: s/3 was begun with 0.25; start a new sweep"
    assert (code, errors) == (2, [f"error: job 3 (seed=3): {wanted}"])
    assert run.engine.calls == []
    assert {p: p.read_bytes() for p in tmp_path.glob("s/**/*.yaml")} == files


def test_what_is_no_sweep_and_what_is_one_are_told_apart(run, tmp_path):
    interrupted(run)
    assert run("resume=s")[1] == ["error: resume='s': is a sweep; go on with it by -m resume=DIR"]
    wanted = "error: resume='nowhere': not the directory of a sweep (no multirun.yaml)"
    assert run("-m", "resume=nowhere")[1] == [wanted]
    assert run("-m", "resume=s/0")[1] == ["error: resume='s/0': goes on with one run; leave out -m"]
    code, errors = run(*SWEEP)
    assert code == 2 and "already holds runs; go on with -m resume=s" in errors[0]


def test_a_failed_job_is_tried_again(run, tmp_path):
    run.engine.ends = {2: FAILED}
    assert run(*SWEEP)[0] == 2 and (tmp_path / "s" / "2" / "error.json").exists()
    run.engine.ends = {}
    assert run("-m", "resume=s") == (0, [])
    assert run.engine.calls[1:] == [[2]]
    assert not (tmp_path / "s" / "2" / "error.json").exists()


def test_a_report_that_fails_loses_nothing(tmp_path, monkeypatch):
    broken = lambda dirs, console: 1 / 0
    monkeypatch.setattr("rlhf_jax.report.sweep.write_report", broken)
    (line,) = report(tmp_path)
    assert (
        line == f"no report: division by zero; build it by python -m experiments.report {tmp_path}"
    )


def test_a_single_run_of_an_experiment_is_its_sweep(run):
    code, errors = run("experiment=ablation", "hydra.sweep.dir=s", "seed=0,1")
    assert (code, errors) == (0, [])
    assert run.engine.calls == [list(range(24))]
    assert "already holds runs" in run("experiment=ablation", "hydra.sweep.dir=s")[1][0]


def test_the_main_process_leaves_jax_to_the_workers(tmp_path):
    root = Path(__file__).resolve().parents[2]
    code = (
        "import sys; import experiments.rlhf; from rlhf_jax.sweep.register import register;"
        "register(); register(); assert 'jax' not in sys.modules"
    )
    env = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, check=True)


class Plugin(Launcher):
    """As Hydra's plugins do it: a job is sent with its task and all that Hydra knows."""

    def __init__(self, **settings):
        self.settings = settings

    def setup(self, *, hydra_context, task_function, config):
        self.context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides, initial_job_idx):
        launchers = Plugins.instance().discover(Launcher)  # a part of the state that is sent, too
        sent = pickle.dumps((self.task_function, self.context, launchers))
        jobs = []
        for place, overrides in enumerate(job_overrides):
            jobs += send(self.config, sent, list(overrides), initial_job_idx + place)
        return [job.results()[0] for job in jobs]  # which ends with the first that has died


class Sent:
    """A job of a cluster. It runs when it is asked for, and so after others that are waited for."""

    dead, cancelled, stopped = set(), [], set()  # numbers: lost machines, ended jobs, Ctrl-C

    def __init__(self, *parts):
        self.parts, self.number, self.found = parts, parts[-1], None

    def results(self):
        if self.number in self.stopped:
            raise KeyboardInterrupt
        if self.number in self.dead:
            raise RuntimeError("the machine was lost")
        self.found = self.found or self.run(*self.parts)
        return [self.found]

    def run(self, master, sent, overrides, number):
        task, context, _ = pickle.loads(sent)
        config = context.config_loader.load_sweep_config(master, overrides)
        with open_dict(config):
            config.hydra.job.num = config.hydra.job.id = number
        keys = {"job_dir_key": "hydra.sweep.dir", "job_subdir_key": "hydra.sweep.subdir"}
        return run_job(hydra_context=context, task_function=task, config=config, **keys)

    def cancel(self, check):
        self.cancelled.append(self.number)


def send(*parts):
    return [Sent(*parts)]


@pytest.fixture
def sent(run, tmp_path, monkeypatch):
    """As `run`, with groups as the jobs of `Plugin`; a lone machine per group, which may burn."""
    monkeypatch.setattr(executors.SubmititLocal, "module", __name__)
    monkeypatch.setattr(executors.SubmititLocal, "name", "Plugin")
    monkeypatch.setattr(executors.SubmititLocal, "sends", f"{__name__}:send")
    monkeypatch.setattr(Sent, "dead", set())
    monkeypatch.setattr(Sent, "stopped", set())
    Sent.cancelled.clear()
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules["__main__"])
    store = ConfigStore.instance()
    if executors.settings_of("submitit_local") is None:
        store.store(group="hydra/launcher", name="submitit_local", node={"timeout_min": 60})
    burning = set()

    def machine(jobs, root):
        if jobs[0].config.model.value_head in burning:
            raise RuntimeError("machine on fire")
        ends = run.engine(jobs, root)
        root.mkdir(parents=True, exist_ok=True)
        group = {"id": 0, "jobs": [job.number for job in jobs]}
        record = {"seconds": 2.0, "facts": {}, "groups": [group]}
        (root / "sweep.json").write_text(json.dumps(record))
        return ends

    monkeypatch.setattr(engine, "run_jobs", machine)
    return burning


APART = (
    "-m", "hydra/launcher=submitit_local", "hydra.sweep.dir=s", "seed=0,1",
    "model.value_head=shared,separate,shared_stop_gradient", "hydra.launcher.timeout_min=5",
)  # fmt: skip


def test_another_machine_gets_a_group_of_lanes_as_one_job(run, sent, tmp_path):
    assert run(*APART) == (0, [])
    assert run.engine.calls == [[0, 3], [1, 4], [2, 5]]
    sweep = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert [(group["id"], group["jobs"]) for group in sweep["groups"]] == [
        (0, [0, 3]), (1, [1, 4]), (2, [2, 5])
    ]  # fmt: skip
    assert [group["static"] for group in sweep["groups"]] == [
        {"model.value_head": head} for head in ("shared", "separate", "shared_stop_gradient")
    ]
    assert sweep["seconds"] == 2.0 and len(list(tmp_path.glob("s/*/summary.json"))) == 6
    assert not list(tmp_path.glob("s/.groups/**/.hydra"))  # they are no jobs of the sweep


def test_a_machine_that_burns_fails_its_group_alone_and_resume_runs_it_again(run, sent, tmp_path):
    sent.add("shared")
    code, errors = run(*APART)
    assert code == 2 and len(errors) == 1
    assert "did not end well: machine on fire (2 of 6 jobs; the first is s/0" in errors[0]
    assert len(list(tmp_path.glob("s/*/summary.json"))) == 4
    sent.clear()
    run.engine.calls.clear()
    assert run("-m", "resume=s") == (0, []) and run.engine.calls == [[0, 3]]
    sweep = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert [group["id"] for group in sweep["groups"]] == [0, 1, 2]


def test_max_lanes_cuts_a_group_into_jobs(run, sent):
    assert run(*APART[:-2], "sweep.max_lanes=1") == (0, [])
    assert run.engine.calls == [[0], [1]]


def test_the_others_are_waited_for_when_a_machine_is_lost(run, sent, tmp_path):
    Sent.dead = {1}
    code, errors = run(*APART)
    assert code == 2 and len(errors) == 1
    assert "did not end well: the machine was lost (2 of 6 jobs; the first is s/1" in errors[0]
    assert run.engine.calls == [[0, 3], [2, 5]]
    assert len(list(tmp_path.glob("s/*/summary.json"))) == 4


def test_ctrl_c_ends_what_was_sent(run, sent, tmp_path):
    Sent.stopped = {1}
    assert run(*APART) == (2, ["error: interrupted; go on with -m resume=s"])
    assert Sent.cancelled == [0, 1, 2] and len(list(tmp_path.glob("s/*/summary.json"))) == 2
    Sent.stopped.clear()
    assert run("-m", "resume=s") == (0, [])  # as new jobs: the old numbers may still be running
    assert {p.name for p in (tmp_path / "s" / ".groups").iterdir()} == set("01234")


def test_a_group_that_is_sent_again_runs_what_it_lacks(run, sent, tmp_path):
    run.engine.stop_after = 3  # of jobs 0 and 3
    run(*APART)
    run.engine.stop_after = None
    jobs = [engine.Job(n, tmp_path / "s" / str(n), RLHFConfig(), ()) for n in (0, 3)]
    again = Groups([jobs], 7, tmp_path / "s")
    with patch.object(HydraConfig, "get", lambda: OmegaConf.create({"job": {"num": 7}})):
        assert [end.number for end in again(OmegaConf.create())] == [3]


@pytest.mark.parametrize(
    "typed, first",
    [("run.max_skipped=3,4", 3), ("sweep.lanes=map,vmap", "map")],
)
def test_all_jobs_are_run_in_one_way(run, tmp_path, typed, first):
    code, errors = run("-m", typed, "seed=0")
    key = typed.partition("=")[0]
    assert code == 2 and len(errors) == 1 and run.engine.calls == []
    accepted = f"must be the same in all jobs of a sweep; the first has {first!r}"
    assert f"{key}=" in errors[0] and errors[0].endswith(accepted)


def test_an_objective_that_no_job_will_have_is_refused(run, tmp_path):
    code, errors = run("-m", "seed=0,1", "sweep.objective=gold/scores")
    assert code == 2 and run.engine.calls == [] and len(errors) == 1
    assert errors[0].startswith("error: sweep.objective='gold/scores': reviews has gold/score, ")
    assert run("-m", "seed=0,1", "task=imdb")[0] == 0  # nobody asks for it in a grid


def test_hydras_own_launcher_goes_on_with_no_sweep(run, tmp_path):
    interrupted(run)
    (line,) = run("-m", "resume=s", "hydra/launcher=basic")[1]
    assert line.startswith("error: hydra/launcher='basic': cannot go on with a sweep; add hydra/")
    path = tmp_path / "s" / "multirun.yaml"
    stored = yaml.safe_load(path.read_text())
    stored["hydra"]["overrides"]["hydra"].append("hydra/launcher=basic")
    path.write_text(yaml.safe_dump(stored))
    assert "hydra/launcher='basic'" in run("-m", "resume=s")[1][0]
    assert run("-m", "resume=s", "hydra/launcher=lanes") == (0, [])


class Search(Sweeper):
    """Chooses its third job by what the second returned."""

    def __init__(self, **settings):
        pass

    def setup(self, **parts):
        self.launcher = Plugins.instance().instantiate_launcher(**parts)

    def sweep(self, arguments):
        found = [job.return_value for job in self.launcher.launch([["seed=0"], ["seed=1"]], 0)]
        seed = 2 if found[1] is None else 3
        return self.launcher.launch([[f"seed={seed}"]], 2)


def test_a_search_goes_on_with_the_failures_it_was_told_of(run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or sys.modules["__main__"])
    with named(Search):
        Plugins.instance().register(Search)
    run.engine.ends, run.engine.stop_after = {1: FAILED}, 2
    typed = ("-m", "hydra.sweep.dir=s", f"hydra.sweeper._target_={ALIAS}.Search")
    assert "error: interrupted; go on with -m resume=s" in run(*typed)[1]
    run.engine.ends, run.engine.stop_after = {}, None
    code, errors = run("-m", "resume=s")
    assert (code, errors) == (2, ["error: s/1 (seed=1): it broke"])
    assert run.engine.calls[-1] == [2]
    stored = yaml.safe_load((tmp_path / "s" / "2" / ".hydra" / "config.yaml").read_text())
    assert stored["seed"] == 2
