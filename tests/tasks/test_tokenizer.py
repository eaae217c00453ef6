"""The byte-level tokenizer and the arrays made from its tokens."""

import numpy as np
import pytest

from rlhf_jax.config import ConfigError
from rlhf_jax.tasks import tokenizer as tok
from rlhf_jax.tasks.tokens import BOS, EOS, PAD, chunk, closed, pack, pad_rows

TEXTS = ["a good film, really good", "a bad film!", "not a film at all"] * 5
BPE = tok.train_bpe(TEXTS, 300)
CODEC = tok.make_codec(BPE)


@pytest.mark.parametrize("seed", range(20))
def test_every_text_survives(seed):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, [128, 0x3000, 0x110000][seed % 3], 50)
    text = "".join(chr(p) for p in points if not 0xD800 <= p < 0xE000)
    assert CODEC.decode(CODEC.encode(text)) == text


@pytest.mark.parametrize(
    "text", ["great \U0001f600\U0001f468‍\U0001f469‍\U0001f467", "映画", "café\n\t", ""]
)
def test_emoji_and_other_scripts(text):
    assert CODEC.decode(CODEC.encode(text)) == text


def test_specials_are_only_ours():
    ids = CODEC.encode("a<eos> b<pad><bos>")
    assert not set(ids) & {PAD, BOS, EOS}
    assert CODEC.decode([PAD, *closed(ids)]) == "a<eos> b<pad><bos>"
    assert len({CODEC.pad_id, CODEC.bos_id, CODEC.eos_id}) == 3


def test_training_is_deterministic_and_cached(tmp_path, monkeypatch):
    assert tok.train_bpe(TEXTS, 300).to_str() == BPE.to_str()
    first = tok.cached_bpe(TEXTS, 300, str(tmp_path))
    monkeypatch.setattr(tok, "train_bpe", None)  # a second training would fail
    second = tok.cached_bpe(TEXTS, 300, str(tmp_path))
    assert first.to_str() == second.to_str() == BPE.to_str()
    assert not set(tok.make_codec(second).encode("<eos>")) & {PAD, BOS, EOS}


def test_cached_ids(tmp_path, monkeypatch):
    texts = [*TEXTS, "", "new \U0001f600"]
    first = tok.cached_ids(BPE, texts, str(tmp_path))
    monkeypatch.setattr(tok, "encode_all", None)
    assert tok.cached_ids(BPE, texts, str(tmp_path)) == first == [CODEC.encode(t) for t in texts]


def test_small_vocabulary_is_refused():
    with pytest.raises(ConfigError, match=r"task\.vocab_size=100: at least 259"):
        tok.train_bpe(TEXTS, 100)
    assert CODEC.vocab_size <= 300


def test_padding_sides():
    left = pad_rows([[1, 5], [1, 6, 7]], 4, left=True)
    assert left.tokens.tolist() == [[0, 0, 1, 5], [0, 1, 6, 7]]
    assert left.mask.tolist() == [[False, False, True, True], [False, True, True, True]]
    assert left.tokens.dtype == "int32" and left.mask.dtype == "bool"
    assert pad_rows([], 4).tokens.shape == (0, 4)
    assert pad_rows([[]], 4).mask.tolist() == [[False] * 4]


@pytest.mark.parametrize("length", range(2, 12))
@pytest.mark.parametrize("size", [0, 1, 2, 9, 10, 11, 40])
def test_chunks_lose_nothing(size, length):
    tokens = list(range(3, 3 + size))
    pieces = chunk(tokens, length)
    assert all(p[0] == BOS and 1 < len(p) <= length for p in pieces)
    assert [t for p in pieces for t in p[1:]] == [*tokens, EOS]


@pytest.mark.parametrize("seed", range(10))
def test_packing_loses_nothing(seed):
    rng = np.random.default_rng(seed)
    pieces = [rng.integers(3, 99, rng.integers(1, 7)).tolist() for _ in range(rng.integers(0, 30))]
    rows = pack(pieces, 6)
    assert all(0 < len(row) <= 6 for row in rows)
    assert sorted(t for row in rows for t in row) == sorted(t for p in pieces for t in p)
