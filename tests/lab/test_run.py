"""Which worker takes which cell."""

from rlhf_jax.lab.run import Job, next_job


def jobs(*names):
    split = [name.split("/") for name in names]
    return [Job(task=task, algo=algo, config=None) for task, algo in split]


def test_a_worker_stays_with_its_task_and_leaves_others_theirs():
    waiting = jobs("a/1", "a/2", "a/3", "b/1", "c/1", "c/2")
    assert next_job(waiting, "b", ["b", "a"]).name == "b/1"
    assert next_job(waiting, None, []).name == "a/1"  # where most is left
    assert next_job(waiting, None, ["a"]).name == "c/1"
    assert next_job(waiting, "d", ["a", "b", "c", "d"]).name == "a/1"  # helps out at the end
