"""Which worker takes which cell."""

from types import SimpleNamespace

from rlhf_jax.lab.run import CALIBRATION, Job, next_job


def jobs(*names):
    """As many updates as there are letters in the algorithm."""
    split = [name.split("/") for name in names]
    sized = lambda algo: SimpleNamespace(algo=SimpleNamespace(updates=len(algo)))
    return [Job(task=task, algo=algo, config=sized(algo)) for task, algo in split]


def test_a_worker_stays_with_its_task_and_leaves_others_theirs():
    waiting = jobs("a/1", "a/2", "a/3", "b/1", "c/1", "c/2")
    assert next_job(waiting, "b", ["b", "a"]).name == "b/1"
    assert next_job(waiting, None, []).name == "a/1"  # where most is left
    assert next_job(waiting, None, ["a"]).name == "c/1"
    assert next_job(waiting, "d", ["a", "b", "c", "d"]).name == "a/1"  # helps out at the end


def test_the_calibration_comes_first_and_then_the_largest():
    waiting = jobs("a/ppo", "a/reinforce", "a/dpo", "b/rloo")
    assert next_job(waiting, "a", ["a"]).name == "a/reinforce"
    waiting += jobs(f"a/{CALIBRATION}")
    assert next_job(waiting, "a", ["a"]).algo == CALIBRATION
