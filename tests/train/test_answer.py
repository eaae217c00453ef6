"""Answers of a finished run: prompts, refusals, and numbers that belong to their texts."""

import json

import jax
import pytest

from rlhf_jax.config import ConfigError, ImdbConfig, ReviewsConfig, SamplingConfig
from rlhf_jax.tasks.protocol import TextCodec
from rlhf_jax.tasks.tokenizer import train_bpe
from rlhf_jax.train.answer import Answerer, answer, codec_and_gold, encode_prompt, make_complete
from rlhf_jax.train.ask import converse, read_prompts


def encode(text):
    if not text.isdigit():
        raise ValueError("only digits are known")
    return [int(digit) + 3 for digit in text if int(digit) < 9]


CODEC = TextCodec(encode, lambda ids: " ".join(str(i) for i in ids if i > 2), 12, 0, 1, 2)


@pytest.fixture(scope="module")
def answerer(tiny_config, tiny_model, tiny_frozen):
    """The tuned model is the reward model's trunk made sharper: some other parameters."""
    sampling = SamplingConfig(max_length=6)
    complete = jax.jit(make_complete(tiny_model, tiny_config, sampling, CODEC, None))
    tuned = jax.tree.map(lambda x: 3.0 * x, tiny_frozen.reward["trunk"])
    return Answerer(
        name="ppo",
        codec=CODEC,
        context=32,
        sampling=sampling,
        num_samples=2,
        key=jax.random.key(0),
        has_gold=False,
        complete=lambda prompts, key: complete(tuned, tiny_frozen, prompts, key),
    )


def test_every_prompt_is_answered_in_order_by_both_models(answerer):
    prompts = ["12", "34567", "1"] * 12  # 72 completions: more than one compiled call holds
    found = answer(answerer, prompts)
    assert [(a["prompt"], a["sample"]) for a in found] == [(p, k) for p in prompts for k in (0, 1)]
    for row in found:
        assert row["tuned"].keys() == {"text", "finished", "objective/scores", "log_ratio"}
    kls = [row["tuned"]["log_ratio"] for row in found]
    assert sum(kls) / len(kls) > 1.0  # its mean estimates a divergence
    ratios = [row["reference"]["log_ratio"] for row in found]
    assert sum(ratios) / len(ratios) < -1.0  # and this one minus the other divergence


def test_the_seed_decides_and_asking_again_draws_anew(answerer):
    assert answer(answerer, ["12"]) == answer(answerer, ["12"])
    assert answer(answerer, ["12"]) != answer(answerer, ["12"], turn=1)


@pytest.mark.parametrize(
    "prompt, accepted", [("abc", "only digits"), ("1" * 26, "at most 26 are accepted")]
)
def test_a_prompt_that_cannot_work_is_named(answerer, prompt, accepted):
    with pytest.raises(ConfigError, match=f"prompt='{prompt}': .*{accepted}"):
        encode_prompt(answerer, prompt)
    assert len(encode_prompt(answerer, "1" * 25)) == 26


def test_a_conversation_goes_on_after_a_mistake_and_keeps_its_answers(answerer, tmp_path, capsys):
    typed = iter(["12", "abc", "12", "quit", "12"])
    converse(answerer, tmp_path / "out.jsonl", read=lambda _: next(typed))
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in found] == ["12"] * 4 and next(typed) == "12"
    assert "error: prompt='abc': only digits are known" in capsys.readouterr().out


@pytest.mark.parametrize("stop", [EOFError, KeyboardInterrupt])
def test_the_end_of_the_input_ends_a_conversation(answerer, stop):
    def read(_):
        raise stop

    converse(answerer, None, read=read)


def test_prompts_come_from_lines_or_objects(tmp_path):
    (tmp_path / "a.txt").write_text("the plot was\n\n  it was \n")
    (tmp_path / "a.jsonl").write_text('{"prompt": "the plot was"}\n{"prompt": "it was", "id": 3}\n')
    for name in ("a.txt", "a.jsonl"):
        assert read_prompts(tmp_path / name) == ["the plot was", "it was"]


@pytest.mark.parametrize(
    "name, text, problem",
    [
        ("a.jsonl", '{"prompt": "a"}\n{"text": "b"}\n', "line 2 is not"),
        ("a.jsonl", "the plot was\n", "line 1 is not"),
        ("a.txt", "\n\n", "has no prompt"),
        ("a.txt", None, "cannot be read: No such file"),
    ],
)
def test_a_file_without_prompts_is_refused(tmp_path, name, text, problem):
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=f"prompts='.*': {problem}"):
        read_prompts(tmp_path / name)


def test_the_codec_comes_back_without_the_data(tmp_path):
    codec, gold = codec_and_gold(ReviewsConfig(), tmp_path)
    assert codec.decode(codec.encode("the plot was good .")) == "the plot was good ."
    assert gold is not None
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        codec_and_gold(ImdbConfig(), tmp_path)
    (tmp_path / "tokenizer.json").write_text(train_bpe(["so good", "so bad"], 300).to_str())
    codec, gold = codec_and_gold(ImdbConfig(), tmp_path)
    assert codec.decode(codec.encode("so good <eos>!")) == "so good <eos>!" and gold is None
