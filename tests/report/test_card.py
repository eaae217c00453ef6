"""The report card, from a made-up `card.json` whose numbers hang together."""

import base64
import copy
import functools
import io
import json
import math
import re

import numpy as np
import pytest
from matplotlib.collections import PathCollection
from matplotlib.image import imread
from rich.console import Console

from rlhf_jax.io.card_table import print_card
from rlhf_jax.report import card, card_numbers, card_plots

BETA, BUDGETS = 0.5, [1024 * 2**k for k in range(8)]
# What an algorithm aims at (the price of KL it acts by, over beta), how many samples it takes to
# get half-way, and the noise it keeps.
TRAINED = {
    "rloo": (1.0, 3e3, 0.05), "grpo": (1.9, 2e3, 0.06), "ppo": (1.0, 9e3, 0.15),
    "reinforce": (1.0, 2e4, 0.30), "remax": (1.0, 8e3, 0.12), "dapo": (0.4, 4e3, 0.10),
    "online_dpo": (1.1, 1.2e4, 0.2),
}  # fmt: skip


class Lab:
    """One instance with 64 completions, everything summed exactly."""

    def __init__(self, instance):
        rng = np.random.default_rng(instance)
        self.ref = rng.dirichlet(np.ones(64))
        self.rewards = rng.standard_normal(64)

    def tilt(self, price, noise=0.0):
        logits = np.log(self.ref) + self.rewards / price + noise
        p = np.exp(logits - logits.max())
        return p / p.sum()

    def kl(self, p, q):
        return float(p @ np.log(p / q))

    def gap(self, p, price=BETA):
        """Share of the start's gap to the optimum at a price."""
        optimum = self.tilt(price)
        return self.kl(p, optimum) / self.kl(self.ref, optimum)

    def envelope(self):
        tilted = [self.tilt(1 / slope) for slope in np.linspace(0.01, 12, 60)]
        kl, reward = [self.kl(p, self.ref) for p in tilted], [p @ self.rewards for p in tilted]
        return {"kl": kl, "reward": [float(r) for r in reward]}

    def row(self, policies, price, **names):
        last = policies[-1]
        slope = np.cov(np.log(last / self.ref), self.rewards, aweights=last)
        straight = slope[0, 1] ** 2 / (slope[0, 0] * slope[1, 1]) if slope[0, 0] > 1e-9 else None
        own = None if price == BETA else [self.gap(p, price) for p in policies]
        return names | {
            "budgets": list(BUDGETS),
            "gap_share": [self.gap(p) for p in policies],
            "own_gap_share": own,
            "reward": [float(p @ self.rewards) for p in policies],
            "kl": [self.kl(p, self.ref) for p in policies],
            "beta": BETA, "beta_eff": slope[1, 1] / slope[0, 1] if straight else None,
            "beta_r2": straight, "kl_efficiency": straight, "above_envelope": 0,
            "value_error": None, "gradient_cosine": None,
        }  # fmt: skip


def trained(task, algo, instance, seed):
    """A run that comes closer with samples, up to the noise it keeps."""
    aim, half, noise = TRAINED[algo]
    lab, rng = Lab(instance), np.random.default_rng([instance, seed, len(algo)])
    fixed = rng.standard_normal(64)
    half *= rng.lognormal(0, 0.3)
    learnt = [1 - math.exp(-n / half) for n in BUDGETS]
    policies = [lab.tilt(BETA * aim / s, noise * s * fixed) for s in learnt]
    names = {"task": task, "algo": algo, "instance": instance, "seed": seed, "kind": "trained"}
    row = lab.row(policies, BETA * aim, **names, seconds=float(rng.uniform(2, 4)))
    critic = {"value_error": float(rng.uniform(0.1, 0.2))} if algo == "ppo" else {}
    return row | {"gradient_cosine": float(rng.uniform(0.6, 0.9))} | critic


def calibration(task, instance):
    lab = Lab(instance)
    order = np.argsort(lab.rewards)
    below = np.cumsum(lab.ref[order])
    best = np.empty(64)
    best[order] = np.diff(np.concatenate([[0], below**4]))
    exact = [lab.tilt(BETA / (1 - math.exp(-(k + 1) / 2))) for k in range(8)]
    known = {"optimal": lab.tilt(BETA), "ref": lab.ref, "bon": best, "exact_gradient": exact}
    for algo, found in known.items():
        policies = found if isinstance(found, list) else [found] * 8
        names = {"task": task, "algo": algo, "instance": instance, "seed": 0}
        yield lab.row(policies, BETA, **names, kind="calibration", seconds=0.1)


def diverge(row):
    """As a run is recorded that ended in nan after a while."""
    curves = ("gap_share", "reward", "kl")
    lost = {name: row[name][:4] + [None] * 4 for name in curves}
    single = dict.fromkeys(("beta_eff", "beta_r2", "kl_efficiency", "gradient_cosine"))
    return row | lost | single


@functools.cache
def _record(seeds, instances, algos, tasks):
    rows = [
        trained(task, algo, i, seed)
        for task in tasks for algo in algos for i in range(instances) for seed in range(seeds)
    ]  # fmt: skip
    rows += [row for task in tasks for i in range(instances) for row in calibration(task, i)]
    envelopes = {f"{task}/{i}": Lab(i).envelope() for task in tasks for i in range(instances)}
    gates = [
        {"name": "rloo reaches the optimum", "wanted": "IQM of gap_share below 0.02",
         "found": "0.004 [0.002, 0.006]", "passed": True},
        {"name": "dapo does not", "wanted": "IQM > 0.05 & <b>fixed</b> before", "found": "0.03",
         "passed": False},
    ]  # fmt: skip
    facts = {"versions": {"jax": "0.10.2"}, "device": "2 cores", "seconds": 612.0}
    facts |= {"command": "python -m benchmarks.card"}
    return {
        "facts": facts, "settings": {"learning_rate": 1e-3, "note": "<none>"},
        "rows": rows,
        "envelopes": envelopes, "gates": gates,
    }  # fmt: skip


def record(seeds=3, instances=2, algos=("rloo", "grpo", "ppo"), tasks=("token_tree",)):
    return copy.deepcopy(_record(seeds, instances, tuple(algos), tuple(tasks)))


def lines_by_name(found):
    return {line["algo"]: line for line in card.table(found)}


def test_a_line_for_each_task_and_algorithm_best_first():
    lines = card.table(record(tasks=("token_tree", "bandit")))
    assert [line["task"] for line in lines] == ["token_tree"] * 7 + ["bandit"] * 7
    first = [line["algo"] for line in lines[:7]]
    assert first == ["rloo", "ppo", "grpo", "optimal", "ref", "bon", "exact_gradient"]


def test_the_numbers_are_those_of_the_runs():
    line = lines_by_name(record())["rloo"]
    runs = [r for r in record()["rows"] if r["algo"] == "rloo"]
    last = sorted(run["gap_share"][-1] for run in runs)
    assert line["gap"].value == pytest.approx(np.mean(last[1:5]))  # a quarter of six is one
    assert line["gap"].low < line["gap"].value < line["gap"].high
    ratios = np.sort([abs(run["beta_eff"] / BETA - 1) for run in runs])
    assert line["beta_error"].value == pytest.approx(ratios[1:5].mean())
    assert (line["runs"], line["instances"], line["seeds"], line["not_finite"]) == (6, 2, 3, 0)
    assert line["own_gap"] is None and line["value_error"] is None


def test_an_algorithm_with_another_aim_reaches_its_own():
    found = lines_by_name(record())
    grpo = found["grpo"]
    assert grpo["gap"].low > 0.1 and grpo["own_gap"].high < 0.02
    assert grpo["beta_ratio"].value == pytest.approx(1.9, abs=0.1)
    assert found["rloo"]["beta_ratio"].value == pytest.approx(1, abs=0.05)
    assert found["optimal"]["gap"].value == pytest.approx(0, abs=1e-12)
    assert found["ref"]["gap"].value == pytest.approx(1) and found["ref"]["beta_r2"] is None


def test_a_run_that_diverged_is_counted_and_makes_everything_worse():
    found, before = record(seeds=8), lines_by_name(record(seeds=8))["rloo"]
    found["rows"][0] = diverge(found["rows"][0])
    line = lines_by_name(found)["rloo"]
    assert (line["runs"], line["not_finite"]) == (16, 1)
    for name, sign in {"gap": 1, "beta_error": 1, "beta_r2": -1, "gradient_cosine": -1}.items():
        assert line[name].runs == 16 and line[name].not_finite == 1
        assert sign * line[name].value >= sign * before[name].value
    assert line["gap"].high > before["gap"].high
    assert line["beta_r2"].value < before["beta_r2"].value
    assert line["seconds"] == before["seconds"]
    assert "1 run ended without a finite gap" in " ".join(card_numbers.cautions([line]))


def test_many_that_diverged_leave_no_finite_mean():
    found = record()
    found["rows"] = [diverge(r) if r["algo"] == "ppo" else r for r in found["rows"]]
    ppo = lines_by_name(found)["ppo"]
    assert ppo["gap"].value == math.inf and ppo["not_finite"] == 6 and ppo["beta_error"] is None
    assert card_numbers.cell(ppo["gap"], 6) == ("∞", "[∞, ∞]")
    some = card_plots.gap_curves(found, "token_tree")[2]
    assert some.algo == "ppo" and np.isfinite([e.value for e in some.estimates[:4]]).all()
    assert "PPO (6 of 6 diverged)" in labels(gap_figure(found).axes[0])


def test_a_number_undefined_for_some_runs_is_said_to_be():
    found = record()
    found["rows"][0]["beta_r2"] = None
    line = lines_by_name(found)["rloo"]
    assert line["beta_r2"].runs == 5 and line["not_finite"] == 0
    assert card_numbers.cell(line["beta_r2"], 6)[1].endswith("of 5 runs")
    assert "of" not in card_numbers.cell(line["gap"], 6)[1]


def test_points_above_the_envelope_are_added_up_and_said():
    found = record()
    assert not card_numbers.cautions(card.table(found))
    found["rows"][0]["above_envelope"], found["rows"][1]["above_envelope"] = 2, 3
    assert lines_by_name(found)["rloo"]["above_envelope"] == 5
    (note,) = card_numbers.cautions(card.table(found))
    assert "no policy can be: 5." in note and "RLOO" in note


def test_fewer_than_three_seeds_are_said_loudly(tmp_path):
    few = record(seeds=2)
    (note,) = card_numbers.cautions(card.table(few))
    assert note.startswith("FEWER THAN 3 SEEDS (down to 2") and "RLOO" in note
    text = card.markdown(card.table(few))
    assert f"**{note}**" in text and "6 (**2" not in text and "4 (**2 seeds!**)" in text
    assert "FEWER THAN 3 SEEDS" in page(few, tmp_path) and "FEWER" in printed(few, 120)
    enough = card.table(record())
    assert not card_numbers.cautions(enough) and "seeds!" not in card.markdown(enough)


def test_markdown_is_a_table():
    text = card.markdown(card.table(record()))
    rows = [line for line in text.split("\n") if line.startswith("|")]
    assert len({row.count("|") for row in rows}) == 1 and len(rows) == 2 + 7
    assert rows[2].startswith("| RLOO | 131,072 | 0.00")
    assert rows[5].startswith("| *optimum* | 131,072 | 0 | - |")
    assert "β_eff / β" not in text and "value error" in rows[0]
    without = card.markdown(card.table(record(algos=("rloo",))))
    assert "value error" not in without  # nobody has one


@pytest.mark.parametrize("width", [80, 120])
def test_the_terminal_table_fits(width):
    text = printed(record(tasks=("variable_length",)), width)
    assert "…" not in text and "RLOO" in text and "variable length" in text
    assert max(map(len, text.split("\n"))) <= width
    assert "MISSED  dapo does not" in text and "passed  rloo" in text


def printed(found, width):
    stream = io.StringIO()
    print_card(card.table(found), found["gates"], Console(file=stream, width=width))
    return stream.getvalue()


def page(found, folder):
    (folder / "card.json").write_text(json.dumps(found))
    return card.write_page(folder).read_text()


def gap_figure(found, task="token_tree"):
    return card_plots.draw_gap(task, card_plots.gap_curves(found, task))


def labels(axes):
    return axes.get_legend_handles_labels()[1]


def test_the_page_is_one_file_with_everything(tmp_path):
    text = page(record(tasks=("token_tree", "bandit")), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["card.json", "index.html"]
    sources = re.findall(r'src="([^"]+)"', text)
    assert len(sources) == 4 and all(s.startswith("data:image/png;base64,") for s in sources)
    for source in sources:
        assert imread(io.BytesIO(base64.b64decode(source.split(",")[1]))).std() > 0.05
    assert not re.search(r'(href|src)="(http|//|/)', text) and "<script" not in text
    for words in ("Gibbs envelope", "131,072", "2 cores", "0.10.2", "python -m benchmarks.card"):
        assert words in text
    assert "IQM &gt; 0.05 &amp; &lt;b&gt;fixed&lt;/b&gt;" in text and "<none>" not in text
    assert "1 of 2" in text and text.count("<h3>Calibration</h3>") == 2
    opened = re.findall(r"<(table|tr|td|th|div|figure|p|dl|h2)\b", text)
    assert all(text.count(f"<{t}>") + text.count(f"<{t} ") == text.count(f"</{t}>") for t in opened)


def test_calibration_stands_apart_on_the_page(tmp_path):
    before, after = page(record(), tmp_path).split("<h3>Calibration</h3>")
    assert "<td>RLOO</td>" in before and "<td>optimum</td>" not in before
    assert "<td>optimum</td>" in after and "<td>RLOO</td>" not in after


def test_every_line_has_its_interval():
    axes = gap_figure(record()).axes[0]
    assert labels(axes) == ["RLOO", "PPO", "GRPO"] and len(axes.collections) == 3
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert "NO INTERVALS" not in gap_figure(record()).get_suptitle()
    alone = gap_figure(record(seeds=1))
    assert "ONE SEED: NO INTERVALS" in alone.get_suptitle()
    bands = [c.get_paths() for c in alone.axes[0].collections]
    assert not any(path.vertices.size for paths in bands for path in paths)


def test_known_policies_are_levels():
    axes = gap_figure(record()).axes[0]
    dashed = [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == "--"]
    names = [text.get_text() for text in axes.texts]
    assert max(dashed) == pytest.approx(1) and len(dashed) == 3
    assert names == ["optimum ↓", "exact gradient", "best of n", "reference"]


def test_a_panel_has_at_most_five_algorithms():
    figure = gap_figure(record(seeds=2, instances=1, algos=tuple(TRAINED)))
    assert [len(labels(axes)) for axes in figure.axes] == [5, 2]
    shown = [line for line in figure.axes[1].lines if line.get_color() == card_plots.PALE]
    assert len(shown) == 5  # the others, for comparison


def test_long_names_leave_room_for_the_curves():
    found = record(seeds=4, instances=1)
    for run in found["rows"]:
        run["algo"] = {"rloo": "reinforce_moving", "ppo": "rejection"}.get(run["algo"], run["algo"])
    found["rows"] = [diverge(r) if r["seed"] == 1 else r for r in found["rows"]]
    figure = gap_figure(found)
    assert "REINFORCE, moving mean (1 of 4 diverged)" in labels(figure.axes[0])
    figure.draw_without_rendering()
    assert figure.axes[0].get_position().width > 0.5


def test_the_frontier_shows_every_run_of_one_instance_below_the_envelope():
    found = record()
    curves = card_plots.gap_curves(found, "token_tree")
    axes = card_plots.draw_frontier(found, "token_tree", curves).axes[0]
    (envelope,) = (line for line in axes.lines if line.get_color() == "black")
    assert envelope.get_xdata().tolist() == Lab(0).envelope()["kl"]
    points = [c.get_offsets() for c in axes.collections if isinstance(c, PathCollection)]
    last = [places[0] for places in points if len(places) == 1]
    # the last points of three seeds of three algorithms, and four known policies
    assert len(last) == 9 + 4
    for kl, reward in last:
        assert reward < np.interp(kl, *Lab(0).envelope().values()) + 0.03
    found["envelopes"] = {}
    bare = card_plots.draw_frontier(found, "token_tree", curves).axes[0]
    assert not [line for line in bare.lines if line.get_color() == "black"]


def test_what_is_wrong_with_a_card_is_said(tmp_path):
    with pytest.raises(FileNotFoundError):
        card.write_page(tmp_path)
    found = record()
    with pytest.raises(ValueError, match=r"lacks gates"):
        page({k: v for k, v in found.items() if k != "gates"}, tmp_path)
    with pytest.raises(ValueError, match="no runs"):
        page(found | {"rows": []}, tmp_path)
    found["rows"][0]["kind"] = "test"
    with pytest.raises(ValueError, match="rloo, instance 0, seed 0: kind is one of"):
        page(found, tmp_path)
    found["rows"][0] |= {"kind": "trained", "kl": [1.0]}
    with pytest.raises(ValueError, match="kl has 1 numbers for 8 budgets"):
        page(found, tmp_path)
