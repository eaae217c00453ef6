"""All comparisons and differences, in the order of the table."""

from __future__ import annotations

from .asking import Key, ask
from .cases import Arrays, Case, Difference
from .comparisons import advantages, clips, policy_gradients, preferences, rlax, tokens
from .differences import groups, statistics
from .differences import preferences as preference_differences

CASES: list[Case] = [
    *rlax.CASES,
    *tokens.CASES,
    *clips.CASES,
    *policy_gradients.CASES,
    *advantages.CASES,
    *preferences.CASES,
]
DIFFERENCES: list[Difference] = [
    *groups.DIFFERENCES,
    *preference_differences.DIFFERENCES,
    *statistics.DIFFERENCES,
]
PEERS = ("rlax", "trl", "trl_ppo")


def ask_all(peer: str) -> tuple[dict[Key, Arrays], dict[Key, str]]:
    """One process of the peer answers every case and every difference."""
    return ask(peer, [case for case in [*CASES, *DIFFERENCES] if case.peer == peer])
