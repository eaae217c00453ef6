"""One process of TRL answers for all tests of a session."""

import os

import pytest

from ..asking import missing
from .asking import PEER, ask

collect_ignore = ["peer"]  # it runs in TRL's environment, not in this one


@pytest.fixture(scope="session")
def answers():
    """TRL's answers by the case's id; skips, or fails if peers are required, without them."""
    reason = missing(PEER)
    if reason and os.environ.get("RLHF_JAX_REQUIRE_PEERS") == "1":
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    return ask()
