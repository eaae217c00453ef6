"""Byte-level BPE trained on a task's own text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from rlhf_jax.config import ConfigError
from rlhf_jax.io.atomic import replacing
from rlhf_jax.tasks.packages import cache_root, content_key
from rlhf_jax.tasks.protocol import TextCodec
from rlhf_jax.tasks.tokens import BOS, EOS, PAD, SPECIALS

MIN_VOCAB = len(SPECIALS) + 256  # every byte has a token, so no text is ever unknown


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE of at most `vocab_size` tokens; the same texts give the same tokenizer.

    Raises: ConfigError where the vocabulary has no room for the 256 bytes.

    >>> bpe = train_bpe(["so good", "so good", "so bad"], 300)
    >>> bpe.decode(bpe.encode("so good \U0001f600").ids)
    'so good \U0001f600'
    """
    if vocab_size < MIN_VOCAB:
        raise ConfigError("task.vocab_size", vocab_size, f"at least {MIN_VOCAB}")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return _plain_specials(bpe)


def cached_bpe(texts: Sequence[str], vocab_size: int, cache_dir: str | None = None) -> Tokenizer:
    """`train_bpe`, kept in the cache under a hash of the texts and the size."""
    key = content_key(str(vocab_size), *texts)
    path = cache_root(cache_dir) / "tokenizers" / f"bpe-{key}.json"
    if not path.exists():
        trained = train_bpe(texts, vocab_size).to_str()
        with replacing(path) as temporary:
            temporary.write_text(trained, encoding="utf-8")
    return _plain_specials(Tokenizer.from_file(str(path)))


def _plain_specials(bpe: Tokenizer) -> Tokenizer:
    # A review that spells "<eos>" must not end its own sequence. The flag is not in the JSON.
    bpe.encode_special_tokens = True
    return bpe


def make_codec(bpe: Tokenizer) -> TextCodec:
    """The codec of a tokenizer from `train_bpe`; `decode` accepts any array of ids."""

    def encode(text: str) -> list[int]:
        return bpe.encode(text, add_special_tokens=False).ids

    def decode(ids: Sequence[int]) -> str:
        return bpe.decode([int(i) for i in ids], skip_special_tokens=True)

    return TextCodec(encode, decode, bpe.get_vocab_size(), PAD, BOS, EOS, bpe.to_str())


def encode_all(bpe: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of every text, without BOS or EOS."""
    return [e.ids for e in bpe.encode_batch_fast(list(texts), add_special_tokens=False)]


def cached_ids(
    bpe: Tokenizer, texts: Sequence[str], cache_dir: str | None = None
) -> list[list[int]]:
    """`encode_all`, kept in the cache: tokenizing takes longer than everything else in a start."""
    path = cache_root(cache_dir) / "tokens" / f"ids-{content_key(bpe.to_str(), *texts)}.npz"
    if not path.exists():
        rows = encode_all(bpe, texts)
        flat = np.fromiter((token for row in rows for token in row), np.int32)
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, flat=flat, ends=np.cumsum([len(row) for row in rows]))
    with np.load(path) as saved:
        flat, ends = saved["flat"].tolist(), [0, *saved["ends"].tolist()]
    return [flat[i:j] for i, j in itertools.pairwise(ends)]
