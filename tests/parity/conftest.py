"""One process of each peer answers for all tests of a session."""

import os

import pytest

from .asking import missing
from .registry import ask_all

# They run in the peers' environments, not in this one.
collect_ignore = ["peers", "update/peer"]


@pytest.fixture(scope="session")
def answer():
    """(case, dtype) -> the peer's answer; skips, or fails if peers are required, without one."""
    asked = {}

    def look_up(case, dtype):
        reason = missing(case.peer)
        if reason and os.environ.get("RLHF_JAX_REQUIRE_PEERS") == "1":
            pytest.fail(reason)
        if reason:
            pytest.skip(reason)
        if case.peer not in asked:
            try:
                asked[case.peer] = ask_all(case.peer)
            except Exception as error:  # once: no test waits for it again
                asked[case.peer] = error
        if isinstance(asked[case.peer], Exception):
            raise asked[case.peer]
        answers, errors = asked[case.peer]
        key = case.id, dtype
        if key in errors:
            pytest.fail(f"{case.peer}_worker.py could not answer {key}:\n{errors[key]}")
        return answers[key]

    return look_up
