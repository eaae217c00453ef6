"""Reading a user's files: every line is checked, and every bad line is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.config import ConfigError, UserError

_SHOWN = 10  # bad lines named in one message


class DataError(UserError, ValueError):
    """Data that cannot be used: says where, what is wrong and what is accepted."""


class BadRow(ValueError):
    """What is wrong with one line, and what is accepted; the reader adds the place."""


class Row(NamedTuple):
    """A parsed line and where it stood."""

    place: str  # path:line
    value: Any


class Issues:
    """The bad rows found so far: raised together, or skipped and counted."""

    def __init__(self, skip: bool):
        self.skip = skip
        self.lines: list[str] = []

    def check(self, rows: list[Row], parse: Callable[[Any], Any]) -> list[Row]:
        """Rows with `parse` of their values; one that raises BadRow is noted and left out."""
        good: list[Row] = []
        for row in rows:
            try:
                good.append(Row(row.place, parse(row.value)))
            except BadRow as error:
                self.lines.append(f"{row.place}: {error}")
        return good

    def settle(self) -> None:
        """Raises: DataError with the first ten bad rows and the count, unless they are skipped."""
        if self.lines and not self.skip:
            raise DataError(
                f"{self._listed()}\nmend them, or set task.skip_bad_rows=true to leave them out"
            )

    def notes(self) -> tuple[str, ...]:
        """What to tell the user about skipped rows."""
        return (f"skipped: {self._listed()}",) if self.lines else ()

    def _listed(self) -> str:
        more = len(self.lines) - _SHOWN
        tail = [f"... and {more} more"] if more > 0 else []
        count = "1 bad row" if len(self.lines) == 1 else f"{len(self.lines)} bad rows"
        return "\n".join([count, *self.lines[:_SHOWN], *tail])


def read_rows(key: str, name: str, issues: Issues, *, plain: bool = False) -> list[Row]:
    """The lines of a file: JSON objects, or with `plain` the text itself. Blank lines are skipped.

    A byte-order mark and Windows line ends are accepted.
    Raises: ConfigError naming the setting `key` where the file cannot be read or has no rows.
    """
    rows: list[Row] = []
    for number, line in enumerate(_lines(key, name), start=1):
        if line.strip():
            rows.append(Row(f"{name}:{number}", line))
    if not rows:
        raise ConfigError(key, name, "a file with at least one row; this one is empty")
    parse = _decode if plain else _parse
    return issues.check(rows, parse)


def _lines(key: str, name: str) -> list[bytes]:
    try:
        return Path(name).expanduser().read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConfigError(key, name, f"a readable file is needed ({reason})") from None


def _decode(line: bytes) -> str:
    try:
        return line.decode().removesuffix("\r")
    except UnicodeDecodeError as error:
        raise BadRow(f"byte {error.start} is not UTF-8; UTF-8 text is accepted") from None


def _parse(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(_decode(line))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadRow):
            raise
        raise BadRow(f"not JSON ({error}); one JSON object a line is accepted") from None
    if not isinstance(value, dict):
        wanted = 'one JSON object a line, such as {"prompt": "..."}, is accepted'
        raise BadRow(f"holds {kind(value)}; {wanted}")
    return value


def kind(value: object) -> str:
    """What a user would call a JSON value.

    >>> kind([1]), kind(None), kind(True)
    ('a list', 'null', 'true or false')
    """
    if value is None:
        return "null"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    return (names | {list: "a list", dict: "an object"}).get(type(value), type(value).__name__)


def check_text(key: str, value: object, *, empty: bool = False) -> str:
    """`value` if it is text that can be encoded. Raises: BadRow."""
    if not isinstance(value, str):
        raise BadRow(f'"{key}" is {kind(value)}; text is accepted')
    if not empty and not value.strip():
        raise BadRow(f'"{key}" is empty; non-empty text is accepted')
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadRow(f'"{key}" holds half a surrogate pair; valid Unicode is accepted') from None
    return value


def check_number(key: str, value: object) -> float:
    """`value` if it is a number that float32 can hold. Raises: BadRow.

    >>> check_number("margin", 2)
    2.0
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRow(f'"{key}" is {kind(value)}; a number is accepted')
    if not abs(value) < 3e38:  # nor NaN, which Python's JSON lets pass
        raise BadRow(f'"{key}" is {str(value)[:20]}; a finite number is accepted')
    return float(value)
