"""A user's own reward function: loading it, and refusing what it must not return."""

import numpy as np
import pytest

from rlhf_jax.config import ConfigError
from rlhf_jax.tasks.rewards import RewardError, load_reward, score_texts


def test_loads_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "my_rewards_ok.py").write_text("def length(texts): return [len(t) for t in texts]")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["elsewhere"])
    assert load_reward("my_rewards_ok:length")(["abc"]) == [3]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("len", "with one colon"),
        (":len", "with one colon"),
        ("math:", "with one colon"),
        ("a:b:c", "with one colon"),
        ("no_such_module_here:f", "ModuleNotFoundError: No module named 'no_such_module_here'"),
        ("..up:f", "cannot import"),
        ("math:no_such", "math has no attribute 'no_such'"),
        ("math:pi", "'pi' is a float, not a function"),
    ],
)
def test_bad_specs(spec, problem):
    with pytest.raises(ConfigError) as caught:
        load_reward(spec)
    assert str(caught.value).startswith(f"task.reward={spec!r}: ")
    assert problem in str(caught.value)


def test_module_that_fails_to_import(tmp_path, monkeypatch):
    (tmp_path / "my_rewards_broken.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", list(__import__("sys").path))
    with pytest.raises(ConfigError, match="ZeroDivisionError: division by zero"):
        load_reward("my_rewards_broken:f")


@pytest.mark.parametrize(
    "values", [[1, 2.5], (1, 2.5), np.array([1, 2.5]), [np.float32(1), np.array(2.5)]]
)
def test_accepted_values(values):
    scores = score_texts(lambda texts: values, ["a", "b"])
    assert scores.dtype == np.float32 and scores.tolist() == [1.0, 2.5]


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([1.0], r"returned 1 values for 2 texts; the first text is 'good'"),
        (1.0, r"returned a float; a list of 2 numbers is wanted"),
        ("12", r"returned a str"),
        (None, r"returned a NoneType"),
        ([1.0, float("nan")], r"gave nan, not a finite number, for 'bad'"),
        ([float("-inf"), 1.0], r"gave -inf, not a finite number, for 'good'"),
        ([1e300, 1.0], r"gave 1e\+300, not a finite number"),  # infinite once it is float32
        ([1.0, None], r"gave None, not a finite number, for 'bad'"),
        ([1.0, "2"], r"gave '2', not a finite number, for 'bad'"),
        ([1.0, 1j], r"gave 1j, not a finite number"),
        ([1.0, [1.0, 2.0]], r"gave \[1.0, 2.0\], not a finite number"),
    ],
)
def test_bad_values(values, problem):
    with pytest.raises(RewardError, match=problem):
        score_texts(lambda texts: values, ["good", "bad"])


def test_exception_names_the_text_that_caused_it():
    def fn(texts):
        return [1.0 / len(t) for t in texts]

    with pytest.raises(RewardError, match=r"ZeroDivisionError: .*; on ''"):
        score_texts(fn, ["good", "", "bad"])


def test_exception_of_a_batch_only():
    def fn(texts):
        if len(texts) > 1:
            raise ValueError("too many")
        return [0.0]

    with pytest.raises(RewardError, match="too many; on a batch of 2 texts but on none alone"):
        score_texts(fn, ["a", "b"])


def test_long_texts_are_shortened():
    with pytest.raises(RewardError) as caught:
        score_texts(lambda texts: [None], ["x" * 1000])
    assert "x" * 200 + "..." in str(caught.value) and "x" * 201 not in str(caught.value)


def test_function_cannot_change_the_texts():
    texts = ["a", "b"]
    score_texts(lambda t: [t.clear(), [0.0, 0.0]][1], texts)
    assert texts == ["a", "b"]
