"""The table of a multirun of experiments.ppo: arms and effects whose answer is known."""

import json

import numpy as np
import pytest

from rlhf_jax.report.classic import as_csv, effects, lines, read_arms


@pytest.fixture
def sweep(tmp_path):
    """Clipping is worth 10 and a small rate 1; three seeds, 5 apart."""
    for number, (clip, rate) in enumerate([(c, r) for c in ("clip", "none") for r in (0.1, 0.2)]):
        folder = tmp_path / str(number)
        (folder / ".hydra").mkdir(parents=True)
        typed = [f"ppo.surrogate={clip}", f"optim.learning_rate={rate}", "seeds=3"]
        (folder / ".hydra" / "overrides.yaml").write_text("".join(f"- {x}\n" for x in typed))
        returns = 10.0 * (clip == "clip") + (rate == 0.1) + np.array([0.0, 5.0, 10.0])
        (folder / "summary.json").write_text(
            json.dumps({"final": {"episode/return": returns.tolist()}})
        )
    (tmp_path / "4").mkdir()  # did not finish
    return tmp_path


def test_effects_are_differences_of_equal_seeds(sweep):
    arms = read_arms(sweep)
    assert arms[0].swept == {"ppo.surrogate": "clip", "optim.learning_rate": "0.1"}
    found = {e.key: e for e in effects(arms)}
    for key, gain in {"ppo.surrogate": -10.0, "optim.learning_rate": -1.0}.items():
        # The seeds are 5 apart, and that must not widen the interval.
        assert found[key].found.value == pytest.approx(gain)
        assert (found[key].found.low, found[key].found.high) == pytest.approx((gain, gain))


def test_the_best_arm_is_first_and_every_arm_a_row(sweep):
    arms = read_arms(sweep)
    assert "ppo.surrogate=clip optim.learning_rate=0.1" in lines(arms)[1]
    head, *rows = as_csv(arms).splitlines()
    assert head == "ppo.surrogate,optim.learning_rate,return_iqm,low,high,seeds"
    assert len(rows) == 4 and rows[0].startswith("clip,0.1,16,") and rows[0].endswith(",3")


def test_one_setting_alone_has_no_effect_to_tell(sweep):
    assert effects([]) == [] and effects(read_arms(sweep)[:1]) == []
