"""What the main process makes of what happens to its workers."""

import dataclasses
import json
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import pytest

from rlhf_jax.config import ReviewsConfig, RLHFConfig, RunConfig, SweepConfig, UserError
from rlhf_jax.sweep.engine import GIVEN_UP, Engine, Work, chunk_work, stage_works
from rlhf_jax.sweep.jobs import FAILED, Job, JobEnd, run_jobs
from rlhf_jax.sweep.plan import make_plan
from rlhf_jax.sweep.record import GroupRecord
from rlhf_jax.sweep.workers import START_SECONDS, Worker

CONFIG = RLHFConfig(
    task=ReviewsConfig(),
    stage_seed=0,
    run=RunConfig(stall_seconds=4.0, progress=False),
    sweep=SweepConfig(workers=1),
)
FAKE = """
    import os, time
    from rlhf_jax.sweep.jobs import JobEnd

    def fine(tell, jobs):
        for job in jobs:
            tell("end", JobEnd(job.number, "finished", None, float(job.number)))

    def half(tell, jobs):
        fine(tell, jobs[:1])
        raise ValueError("the compiler gave up\\nin many lines")

    def die(tell, jobs):
        fine(tell, jobs[:1])
        time.sleep(0.5)
        os._exit(3)

    def hang(tell, jobs):
        time.sleep(60)
"""


@pytest.fixture
def jobs(tmp_path):
    return [Job(i, tmp_path / str(i), CONFIG, (f"seed={i}",)) for i in range(8)]


def group(number, *jobs):
    return GroupRecord(number, [job.number for job in jobs], {}, "map", 1, 2)


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Four groups of two jobs each: one well, one that raises, one that dies, one that hangs."""
    root = tmp_path_factory.mktemp("sweep")
    (root / "fake_work.py").write_text(textwrap.dedent(FAKE))
    jobs = [Job(i, root / str(i), CONFIG, (f"seed={i}",)) for i in range(9)]
    names = ("half", "die", "hang", "fine")
    engine = Engine(jobs, root)

    def begin(plan, workers):
        engine.groups = [group(i, *jobs[2 * i : 2 * i + 2]) for i in range(4)]
        works = [
            Work(f"fake_work:{name}", (one.jobs and tuple(jobs[2 * i : 2 * i + 2]),),
                 tuple(jobs[2 * i : 2 * i + 2]), group=one)
            for i, (name, one) in enumerate(zip(names, engine.groups))
        ]  # fmt: skip
        rest = Work("fake_work:fine", ((jobs[8],),), (jobs[8],), group=engine.groups[0])
        engine.waiting = [*works, rest]
        engine.show()

    engine.begin = begin
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        ends = engine.run()
    return root, {end.number: end for end in ends}


def test_what_goes_wrong_in_one_group_is_told_and_the_rest_goes_on(ran):
    _, ends = ran
    status = [ends[i].status for i in range(9)]
    # Of a group that raises, what was finished stays; what was still to come would raise too.
    assert status == ["finished", "failed"] * 2 + ["failed"] * 2 + ["finished"] * 2 + ["failed"]
    assert ends[1].error == ends[8].error == "ValueError: the compiler gave up"
    assert "exit status 3" in ends[3].error
    assert "no sign of life for 4 s (run.stall_seconds)" in ends[5].error
    assert ends[6].objective == 6.0


def test_a_failed_job_has_its_error_on_disk(ran):
    root, _ = ran
    found = json.loads((root / "1" / "error.json").read_text())
    assert found["status"] == "failed" and found["error"] == "ValueError: the compiler gave up"
    assert "in many lines" in found["trace"]
    assert not (root / "0" / "error.json").exists()


def test_the_sweep_is_written_down(ran):
    sweep = json.loads((ran[0] / "sweep.json").read_text())
    assert [g["jobs"] for g in sweep["groups"]] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    errors = [g["error"] for g in sweep["groups"]]
    assert errors[0].startswith("ValueError") and errors[3] is None
    assert sweep["facts"]["platform"] == "cpu" and sweep["seconds"] > 0
    assert sweep["groups"][3]["peak_memory_bytes"] > 1e6


def test_a_stage_is_trained_once_and_awaited(jobs, tmp_path):
    change = dataclasses.replace
    warm = change(CONFIG, sampling=change(CONFIG.sampling, temperature=0.7))
    mixed = [jobs[0], jobs[1], change(jobs[2], config=warm)]
    first, second = stage_works(mixed, tmp_path)
    assert first.jobs == tuple(mixed[:2]) and second.jobs == (mixed[2],)
    assert not first.needs and second.needs == {first.stage}  # the same supervised model
    (one,) = make_plan(mixed, accelerator=False, workers=1)
    works = [chunk_work(one, chunk, group(0), tmp_path, 1) for chunk in one.chunks]
    assert [work.needs for work in works] == [{first.stage}, {second.stage}]


def test_jobs_fail_with_the_stage_they_need(jobs, tmp_path):
    engine = Engine(jobs[:2], tmp_path)
    (stage,) = stage_works(jobs[:2], tmp_path)
    engine.waiting = [Work("m:f", (jobs[:2],), tuple(jobs[:2]), group=group(0, *jobs[:2]))]
    engine.show()
    engine.fail(stage, "no data")
    assert not engine.waiting
    assert engine.ends[1] == JobEnd(1, FAILED, "no data", None)


@pytest.fixture
def idle(jobs, tmp_path):
    """An engine whose group waits for a stage, with a worker that has nothing to do."""
    engine = Engine(jobs[:2], tmp_path)
    (plan,) = make_plan(jobs[:2], accelerator=False, workers=1)
    (chunk,) = plan.chunks
    engine.waiting = [chunk_work(plan, chunk, group(0, *jobs[:2]), tmp_path, 1)]
    engine.pool = SimpleNamespace(all=[Worker(0, None, None, 0.0, ready=True)], logs="logs")
    engine.show()
    return engine, engine.pool.all[0]


def test_a_program_that_cannot_be_compiled_early_waits_for_its_turn(idle):
    engine, worker = idle
    worker.work = engine.early_work(worker)
    assert worker.work.is_early
    engine.lost(worker, "out of memory")
    assert engine.deaths == 0 and engine.early_work(worker) is None
    assert len(engine.waiting) == 1 and not engine.ends


def test_work_for_a_worker_that_has_just_died_is_given_to_another(idle):
    engine, worker = idle
    (work,) = engine.waiting

    def give(*_):
        raise BrokenPipeError

    engine.pool.give = give
    engine.hand(worker, work)
    assert engine.waiting == [work] and worker.work is None and not worker.groups


def test_workers_that_do_not_start_are_given_up(idle):
    engine, worker = idle
    worker.ready, worker.heard = False, time.monotonic() - 10.0
    assert not worker.stalled(1.0)
    worker.heard -= START_SECONDS
    assert worker.stalled(1.0)
    engine.pool.all.clear()
    for _ in range(GIVEN_UP):
        engine.lost(worker, "it ended")
    with pytest.raises(UserError, match="workers end at their start; see logs"):
        engine.loop()


def test_a_device_that_is_not_there_is_named(jobs, tmp_path):
    run = dataclasses.replace(CONFIG.run, device="tpu")
    job = dataclasses.replace(jobs[0], config=dataclasses.replace(CONFIG, run=run))
    with pytest.raises(UserError, match=r"run\.device='tpu': not usable here"):
        run_jobs([job], tmp_path)


def test_no_jobs_are_no_work(tmp_path):
    assert run_jobs([], tmp_path) == [] and not list(tmp_path.iterdir())


def test_the_main_process_never_imports_jax():
    code = "import sys, rlhf_jax.sweep.engine; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
