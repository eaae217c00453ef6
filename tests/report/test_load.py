"""Reading runs, whole and broken."""

import numpy as np
import pytest

from rlhf_jax.report.load import load_metrics, load_summary


def test_stages_become_columns_with_nan_for_null_and_absent(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"stage": "sft", "update": 0, "loss": 2.5}\n'
        "not json\n[1]\n"
        '{"stage": "ppo", "update": 1, "objective/kl": null, "gold/score": 1}\n'
        '{"stage": "ppo", "update": 2, "objective/kl": 0.5}\n'
        '{"stage": "ppo", "upda'
    )
    stages = load_metrics(path)
    assert list(stages) == ["sft", "ppo"]
    np.testing.assert_array_equal(stages["sft"]["loss"], [2.5])
    np.testing.assert_array_equal(stages["ppo"]["objective/kl"], [np.nan, 0.5])
    np.testing.assert_array_equal(stages["ppo"]["gold/score"], [1, np.nan])
    assert "loss" not in stages["ppo"]


def test_missing_files(tmp_path):
    assert load_summary(tmp_path / "summary.json") == {}
    with pytest.raises(FileNotFoundError):
        load_metrics(tmp_path / "metrics.jsonl")
