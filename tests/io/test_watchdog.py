"""The watchdog speaks about blocks that stall, and only about those."""

import time

import pytest

from rlhf_jax.config import ConfigError
from rlhf_jax.io.watchdog import Watchdog


def test_silent_when_the_block_returns(capsys):
    with Watchdog(0.2).guard("ppo update 1"):
        pass
    time.sleep(0.3)
    assert capsys.readouterr().err == ""


def test_reports_at_growing_intervals_and_stops_with_the_block(capsys):
    with Watchdog(0.1, lambda: "Last checkpoint: update 10.").guard("ppo update 12"):
        time.sleep(0.6)
    time.sleep(0.3)
    err = capsys.readouterr().err
    assert err.count("stalled: ppo update 12") == 3  # after 0.1, 0.2 and 0.4 s
    for word in ("Last checkpoint: update 10.", "NPROC", "run.device", "run.stall_seconds"):
        assert word in err


def test_an_error_inside_the_block_passes(capsys):
    with pytest.raises(KeyError), Watchdog(0.1).guard("x"):
        raise KeyError
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_refuses_a_limit_of_nothing():
    with pytest.raises(ConfigError, match=r"run\.stall_seconds=0: must be above 0"):
        Watchdog(0)
