"""The heat map and the table of an audit, from a record as it is on disk."""

import csv
import io
import json

import numpy as np
import pytest
from matplotlib.image import imread

from rlhf_jax.report import audit

PLACE = {
    "policy": "ppo", "task": "reviews", "updates": 10, "completions": 512, "kl": 4.2,
    "kl_coef": 0.12, "steps": 8, "steps_per_update": 64, "ratio_max": 1.9, "run": None,
}  # fmt: skip


def row(name, group, **more):
    numbers = {"loss": 0.1, "grad_norm": 0.5, "clip_fraction": 0.0, "halves": 0.25}
    return {"name": name, "group": group, "note": ""} | numbers | more


def record():
    arms = [row("clip", "surrogate, no KL"), row("none", "surrogate, no KL")]
    arms += [row("loss k1", "KL in the loss", halves=None), row("loss k2", "KL in the loss")]
    cosines = [[1, 0.5, None, -1], [0.5, 1, None, 0], [None] * 4, [-1, 0, None, 1]]
    terms = [row("loss k2", "KL in the loss"), row("text KL", "KL of the text")]
    matrices = {"cosines": cosines, "kl_cosines": [[1, 0.9], [0.9, 1]]}
    return {"place": PLACE, "arms": arms, "kl_terms": terms} | matrices


def test_the_picture_is_drawn_from_the_record(tmp_path):
    (tmp_path / "audit.json").write_text(json.dumps(record()))
    path = audit.plot_audit(tmp_path)
    assert path == tmp_path / "plots" / "audit.png"
    assert imread(path).std() > 0.1


def test_every_cell_has_its_number_and_the_groups_their_lines():
    figure = audit.draw_audit(record())
    axes = figure.axes[0]
    texts = [t.get_text() for t in axes.texts]
    assert texts[:16] == ["1", ".50", "-", "-1", ".50", "1", "-", "0", *"----", "-1", "0", "-", "1"]
    assert texts[16:] == ["surrogate\nno KL", "KL in the loss"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["clip", "none", "loss k1", "loss k2"]
    assert len(axes.lines) == 2  # one across and one down
    image = axes.images[0]
    assert image.get_clim() == (-1, 1) and np.ma.is_masked(image.get_array()[0, 2])
    assert "512 completions" in figure.get_suptitle() and "8 of 64" in figure.get_suptitle()


def test_white_is_0_and_the_ends_are_opposite_colours():
    low, middle, high = audit.SCALE([0.0, 0.5, 1.0])[:, :3]
    assert middle == pytest.approx([1, 1, 1], abs=0.01)
    assert low[2] > low[0] and high[0] > high[2]


def test_the_csv_has_a_row_for_each_arm():
    rows = list(csv.DictReader(io.StringIO(audit.audit_csv(record()))))
    assert [r["name"] for r in rows] == ["clip", "none", "loss k1", "loss k2"]
    assert rows[0]["cosine/none"] == "0.5" and rows[0]["cosine/loss k1"] == ""
    assert rows[2]["halves"] == "" and rows[3]["grad_norm"] == "0.5"


def test_no_record_is_said():
    with pytest.raises(FileNotFoundError):
        audit.plot_audit("nowhere")
