"""Tables on the pages are those of the records beside them, and a missing record is named."""

import json

import pytest

from benchmarks import (
    classic,
    decode,
    operations,
    peer_types,
    ppo_update_days,
    ppo_update_table,
    precision,
    targets,
)
from benchmarks.markdown import table
from benchmarks.records import PAGE, RESULTS, ROOT, read_record
from rlhf_jax.config import UserError


def sizes(name):
    return read_record(RESULTS / f"{name}.json")["sizes"]


def of_update(name="ppo_update"):
    found = sizes(name)
    for head, behind in ppo_update_table.BEHIND.values():
        assert table(head, [behind(row) for row in found.values()]) in PAGE.read_text()
    lines = [ppo_update_table.line(row, size) for size, row in found.items()]
    return ppo_update_table.HEAD, lines


def of_update_in_bf16():
    return of_update("ppo_update_bfloat16")


def of_misses(name="ppo_update"):
    return ppo_update_table.HEAD_MISSES, ppo_update_table.misses(sizes(name))


def of_misses_in_bf16():
    return of_misses("ppo_update_bfloat16")


def of_days():
    return ppo_update_days.HEAD, ppo_update_days.lines(ppo_update_days.usual())


def of_peer_types():
    rows = read_record(RESULTS / "peer_types.json")
    return peer_types.HEAD, [peer_types.line(*row) for row in rows.items()]


def of_precision():
    rows = read_record(RESULTS / "precision.json")["rows"]
    return precision.HEAD, [precision.line(row) for row in rows]


def of_decode():
    return decode.HEAD, [decode.line(row, size) for size, row in sizes("decode").items()]


def of_operations():
    found = read_record(RESULTS / "operations.json")
    return operations.HEAD, [operations.line(row) for row in found.values()]


def of_classic():
    found = read_record(RESULTS / "classic.json")["rows"]
    return classic.HEAD, [classic.line(row) for row in found]


@pytest.mark.parametrize(
    "made",
    [
        of_update,
        of_update_in_bf16,
        of_misses,
        of_misses_in_bf16,
        of_days,
        of_peer_types,
        of_precision,
        of_decode,
        of_operations,
    ],
)
def test_a_table_on_speed_is_that_of_its_record(made):
    assert table(*made()) in PAGE.read_text()


def test_targets_are_those_of_the_records():
    for mark, text in targets.tables().items():
        assert f"<!-- {mark} -->\n{text}\n<!-- end {mark} -->" in PAGE.read_text()


def test_the_table_of_the_front_page_is_that_of_its_records():
    found = ppo_update_table.short(sizes("ppo_update"), sizes("ppo_update_bfloat16"))
    assert table(ppo_update_table.HEAD_SHORT, found) in (ROOT / "README.md").read_text()


def test_the_table_of_the_classic_benchmark_is_that_of_its_record():
    assert table(*of_classic()) in (ROOT / "docs" / "classic.md").read_text()


def test_a_missing_record_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(targets, "RESULTS", tmp_path)
    with pytest.raises(UserError, match=r"ppo_update\.json does not exist"):
        targets.tables()


def test_the_slowest_default_run_that_is_kept_has_a_row(tmp_path, monkeypatch):
    monkeypatch.setattr(targets, "RESULTS", tmp_path)
    keep = lambda name, *seconds: (tmp_path / f"{name}.json").write_text(
        json.dumps({"rows": [{"seconds": s} for s in seconds]})
    )
    keep("pipeline_reviews", 90.0, 60.0)
    assert [row.measured for row in targets.default_run()] == [1.5, 1.0]
    keep("pipeline_reviews_1", 150.0, 30.0)
    found = list(targets.default_run())
    assert [row.measured for row in found] == [1.5, 2.5, 1.0, 1.0]
    assert [row.met for row in found] == [True, False, True, True] and "of 2" in found[1].what
    keep("pipeline_reviews_2", 90.0)
    with pytest.raises(UserError, match="one seed"):
        list(targets.default_run())
