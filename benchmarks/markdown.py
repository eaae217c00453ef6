"""Tables of results, written into a page between two marks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown.

    >>> print(table(["a", "b"], [["1", "2"]]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    line = lambda cells: f"| {' | '.join(cells)} |"
    return "\n".join([line(head), "|" + "---|" * len(head), *map(line, rows)])


def replaced(page: str, name: str, text: str) -> str:
    """The page with what stands between the marks of `name` exchanged.

    Raises:
      ValueError: the page lacks a mark.

    >>> replaced("a <!-- x --> b <!-- end x --> c", "x", "new")
    'a <!-- x -->\\nnew\\n<!-- end x --> c'
    """
    begin, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page must have {begin} and {end} once")
    before, rest = page.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"


def put_table(path: Path, name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Writes a table into a page."""
    path.write_text(replaced(path.read_text(), name, table(head, rows)))
