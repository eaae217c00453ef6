"""Maps of gridworlds as text: read, checked and turned into tables of moves."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from rlhf_jax.config import ConfigError

WALL, FLOOR, START, GOLD, DRAGON, COIN = "#", ".", "S", "G", "D", "c"
LETTERS = WALL + FLOOR + START + GOLD + DRAGON + COIN
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))  # up, right, down, left
NOTHING, FOUND_GOLD, MET_DRAGON, FOUND_COIN = range(4)  # what a move leads to
MAX_STATES = 1024  # exact values solve an equation of this size every update
SHIPPED = resources.files("rlhf_jax.envs") / "layouts"


@dataclass(frozen=True, eq=False)
class Layout:
    """A map and its moves; state `k N + i` is cell `i` of N, the coins of the bits of `k` gone.

    Cells are those one can stand on: floor, starts and coins. Gold and dragons end the episode.
    """

    rows: tuple[str, ...]
    cells: np.ndarray  # [N, 2] int, row and column
    moved: np.ndarray  # [S, 4] int32, the state a move up, right, down or left leads to
    event: np.ndarray  # [S, 4] int32, what it meets; S = N 2^coins
    starts: np.ndarray  # [starts] int32
    reachable: np.ndarray  # [S] bool, from a start by some moves

    @property
    def size(self) -> int:
        """Number of states."""
        return len(self.moved)


def shipped() -> list[str]:
    """Names of the layouts that come with the package.

    >>> shipped()
    ['cliff', 'coins', 'corridor', 'dragon', 'rooms']
    """
    return sorted(f.name.removesuffix(".txt") for f in SHIPPED.iterdir() if ".txt" in f.name)


@functools.cache
def load_layout(name: str) -> Layout:
    """The layout of a shipped name, or of a text file.

    Raises:
      ConfigError: there is none, or the map cannot be played.
    """
    file = SHIPPED / f"{name}.txt" if name in shipped() else Path(name)
    if not file.is_file():
        accepted = f"must be one of {', '.join(shipped())}, or a text file"
        raise ConfigError("env.layout", name, accepted)
    try:
        return parse(file.read_text(encoding="utf-8"), name)
    except UnicodeDecodeError:
        raise ConfigError("env.layout", name, "must be a text file in UTF-8") from None


def parse(text: str, name: str = "text") -> Layout:
    """A map from lines of letters: `#` wall, `.` floor, `S` start, `G` gold, `D` dragon, `c` coin.

    Raises:
      ConfigError: an unknown letter, rows of different lengths, no start, no gold that can be
        reached, or too many states.

    >>> parse("S.G").moved.tolist()  # walls all around: only right leads on, and then to the gold
    [[0, 1, 0, 0], [1, 1, 1, 0]]
    """
    rows = tuple(line.rstrip() for line in text.splitlines() if line.strip())
    check_rows(rows, name)
    cells = [(r, c) for r, c, letter in letters(rows) if letter in FLOOR + START + COIN]
    coins = [cells.index((r, c)) for r, c, letter in letters(rows) if letter == COIN]
    size = len(cells) * 2 ** len(coins)
    if size > MAX_STATES:
        accepted = f"has {size} states (cells times 2 for each coin); at most {MAX_STATES}"
        raise ConfigError("env.layout", name, accepted)
    moved, event = moves(rows, cells, coins)
    starts = np.array([cells.index((r, c)) for r, c, x in letters(rows) if x == START], np.int32)
    reachable = reach(moved, event, starts)
    if not np.any(event[reachable] == FOUND_GOLD):
        raise ConfigError("env.layout", name, "its gold cannot be reached from S")
    return Layout(rows, np.array(cells), moved, event, starts, reachable)


def letters(rows: tuple[str, ...]) -> Iterator[tuple[int, int, str]]:
    """Row, column and letter of each place."""
    return ((r, c, x) for r, row in enumerate(rows) for c, x in enumerate(row))


def check_rows(rows: tuple[str, ...], name: str) -> None:
    """Refuses a map that is no rectangle of known letters with a start."""
    wrong = [x for _, _, x in letters(rows) if x not in LETTERS]
    if wrong:
        accepted = f"has the letter {wrong[0]!r}; known are {' '.join(LETTERS)}"
        raise ConfigError("env.layout", name, accepted)
    if len({len(row) for row in rows}) != 1:
        raise ConfigError("env.layout", name, "its lines must be there and of one length")
    if not any(x == START for _, _, x in letters(rows)):
        raise ConfigError("env.layout", name, "has no start S")


def moves(
    rows: tuple[str, ...], cells: list[tuple[int, int]], coins: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Where each move leads [S, 4], and what it meets there."""
    count, place = len(cells), {cell: i for i, cell in enumerate(cells)}
    moved = np.zeros((count * 2 ** len(coins), 4), np.int32)
    event = np.zeros_like(moved)
    for state in range(len(moved)):
        gone, here = divmod(state, count)
        for move, (down, right) in enumerate(MOVES):
            row, column = cells[here][0] + down, cells[here][1] + right
            inside = 0 <= row < len(rows) and 0 <= column < len(rows[0])
            letter = rows[row][column] if inside else WALL
            there, after = place.get((row, column), here), gone
            if letter in GOLD + DRAGON:
                event[state, move] = FOUND_GOLD if letter == GOLD else MET_DRAGON
            elif there in coins and there != here and not gone & 1 << coins.index(there):
                event[state, move], after = FOUND_COIN, gone | 1 << coins.index(there)
            moved[state, move] = after * count + there
    return moved, event


def reach(moved: np.ndarray, event: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """States that some moves lead to from a start [S]."""
    seen, open_states = np.zeros(len(moved), bool), list(starts)
    while open_states:
        state = open_states.pop()
        if not seen[state]:
            seen[state] = True
            goes_on = (event[state] == NOTHING) | (event[state] == FOUND_COIN)
            open_states.extend(moved[state][goes_on])
    return seen
