"""Tables on the pages are those of the records beside them, and a missing record is named."""

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
    lines = [ppo_update_table.line(row, size) for size, row in found.items()]
    assert table(ppo_update_table.HEAD, lines) in PAGE.read_text()
    lines = [ppo_update_table.machine(row) for row in found.values()]
    return ppo_update_table.HEAD_MACHINE, lines


def of_update_in_bf16():
    return of_update("ppo_update_bfloat16")


def of_misses():
    return ppo_update_table.HEAD_MISSES, ppo_update_table.misses(sizes("ppo_update"))


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


def of_targets():
    return targets.HEAD, targets.rows()


def of_classic():
    found = read_record(RESULTS / "classic.json")["rows"]
    return classic.HEAD, [classic.line(row) for row in found]


@pytest.mark.parametrize(
    "made",
    [
        of_update,
        of_update_in_bf16,
        of_misses,
        of_days,
        of_peer_types,
        of_precision,
        of_decode,
        of_operations,
        of_targets,
    ],
)
def test_a_table_on_speed_is_that_of_its_record(made):
    assert table(*made()) in PAGE.read_text()


def test_the_table_of_the_front_page_is_that_of_its_records():
    found = ppo_update_table.short(sizes("ppo_update"), sizes("ppo_update_bfloat16"))
    assert table(ppo_update_table.HEAD_SHORT, found) in (ROOT / "README.md").read_text()


def test_the_table_of_the_classic_benchmark_is_that_of_its_record():
    assert table(*of_classic()) in (ROOT / "docs" / "classic.md").read_text()


def test_a_missing_record_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(targets, "RESULTS", tmp_path)
    with pytest.raises(UserError, match=r"ppo_update\.json does not exist"):
        targets.rows()
