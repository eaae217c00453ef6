"""A user's own files: every kind of bad line is named, and no prompt is on both sides."""

import dataclasses
import json

import numpy as np
import pytest

from rlhf_jax.config import ConfigError, JsonlConfig
from rlhf_jax.tasks.jsonl import DataError, make_jsonl
from rlhf_jax.tasks.jsonl.chat import Preference, make_renderer, parse_preference
from rlhf_jax.tasks.jsonl.fit import assign_sides, fit_pair
from rlhf_jax.tasks.jsonl.rows import BadRow

USER = {"role": "user", "content": "Hi"}
GOOD = {"role": "assistant", "content": "Hello!"}
BAD = {"role": "assistant", "content": "Go away"}
PROMPTS = [{"prompt": f"Question {i}:"} for i in range(20)]
PAIRS = [
    {"prompt": f"Question {i % 25}:", "chosen": f" yes {i}", "rejected": " no"} for i in range(50)
]


class Folder:
    """Writes files and makes configs that name them."""

    def __init__(self, path):
        self.path = path

    def write(self, name, rows):
        """One row a line: bytes and text as they are, anything else as JSON."""
        lines = [r if isinstance(r, bytes) else _text(r).encode() for r in rows]
        (self.path / name).write_bytes(b"\n".join(lines) + b"\n")
        return str(self.path / name)

    def config(self, prompt_rows=PROMPTS, pair_rows=PAIRS, **changes):
        """A config of files with these rows."""
        config = JsonlConfig(
            prompts=self.write("prompts.jsonl", prompt_rows),
            preferences=self.write("pairs.jsonl", pair_rows),
            vocab_size=300,
            text_length=64,
        )
        return dataclasses.replace(config, **changes)


def _text(row):
    return row if isinstance(row, str) else json.dumps(row)


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def decoded(task, sequences):
    return [task.codec.decode(row[mask]) for row, mask in zip(sequences.tokens, sequences.mask)]


def test_a_good_pair_of_files(folder):
    task = make_jsonl(folder.config())
    assert task.train_pairs.chosen.tokens.shape == (46, 64)
    assert len(task.heldout_pairs.margin) == 4 and not task.train_pairs.margin.any()
    assert task.train_prompts.tokens.shape[1] == 33 and task.train_prompts.mask[:, -1].all()
    assert len(task.train_prompts.tokens) + len(task.eval_prompts.tokens) == 20
    text = decoded(task, task.train_text)
    assert text == decoded(task, task.train_pairs.chosen)
    assert text[0].startswith("Question ") and " yes " in text[0]
    assert task.gold is None and task.judge is None and not task.facts
    assert task.notes == ("20 prompts, 50 preferences, 0 texts read",)


def test_no_prompt_on_both_sides(folder):
    for seed in range(5):
        task = make_jsonl(folder.config(heldout=0.3, data_seed=seed))
        sides = [
            {t.split(":")[0] for s in group for t in decoded(task, s)}
            for group in (
                (task.train_prompts, task.train_pairs.chosen, task.train_text),
                (task.eval_prompts, task.heldout_pairs.chosen, task.heldout_text),
            )
        ]
        assert sides[0] and sides[1] and not sides[0] & sides[1]


def test_same_seed_same_task_whatever_the_order(folder):
    one = make_jsonl(folder.config())
    two = make_jsonl(folder.config())
    np.testing.assert_array_equal(one.train_text.tokens, two.train_text.tokens)
    assert one.codec.encode("Question") == two.codec.encode("Question")
    mixed = make_jsonl(folder.config(prompt_rows=PROMPTS[::-1], pair_rows=PAIRS[::-1]))
    assert set(decoded(one, one.eval_prompts)) == set(decoded(mixed, mixed.eval_prompts))
    other = make_jsonl(folder.config(data_seed=1))
    assert set(decoded(one, one.eval_prompts)) != set(decoded(other, other.eval_prompts))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{nope", "not JSON (Expecting property name"),
        ("[1]", 'holds a list; one JSON object a line, such as {"prompt": "..."}, is accepted'),
        ("3", "holds a number"),
        ("[" * 100000, "not JSON"),
        (b'{"prompt": "\xff"}', "byte 12 is not UTF-8"),
        ({"text": "x"}, 'no "prompt" (it has text); text, or a list of'),
        ({}, 'no "prompt" (it has no keys)'),
        ({"prompt": None}, '"prompt" is null; text, or a list of'),
        ({"prompt": 3}, '"prompt" is a number'),
        ({"prompt": "  "}, '"prompt" is empty'),
        ({"prompt": []}, '"prompt" is an empty list'),
        ({"prompt": ["Hi"]}, '"prompt"[0] is not a message with a role and a content'),
        ({"prompt": [USER, {"role": "user"}]}, '"prompt"[1] is not a message'),
        ({"prompt": [{"role": 1, "content": ""}]}, '"prompt[0].role" is a number'),
        ({"prompt": [{"role": "user", "content": None}]}, '"prompt[0].content" is null'),
        ('{"prompt": "\\ud83d"}', "half a surrogate pair"),
        ({"prompt": "word " * 200}, "tokens; at most task.max_prompt=32 are accepted"),
    ],
)
def test_bad_prompts(folder, row, problem):
    config = folder.config(prompt_rows=[*PROMPTS[:2], "", row, *PROMPTS[2:]])
    with pytest.raises(DataError) as caught:
        make_jsonl(config)
    assert f"{config.prompts}:4: " in str(caught.value)
    assert problem in str(caught.value)
    assert str(caught.value).startswith("1 bad row\n")
    task = make_jsonl(dataclasses.replace(config, skip_bad_rows=True))
    assert len(task.train_prompts.tokens) + len(task.eval_prompts.tokens) == 20
    assert f"{config.prompts}:4: " in task.notes[-1]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"prompt": "a", "chosen": "b"}, 'no "rejected" (it has chosen, prompt)'),
        ({"prompt": "a", "chosen": 1, "rejected": "c"}, '"chosen" is a number'),
        ({"prompt": 1, "chosen": "b", "rejected": "c"}, '"prompt" is a number'),
        ({"prompt": "a", "chosen": "", "rejected": "c"}, '"chosen" is empty'),
        ({"prompt": "a", "chosen": "b", "rejected": " \n"}, '"rejected" is empty'),
        ({"prompt": "a", "chosen": "b", "rejected": "b"}, "are the same"),
        ({"chosen": "a b", "rejected": "a b c"}, '"chosen" is empty after the prompt'),
        ({"prompt": "a", "chosen": [GOOD], "rejected": "c"}, '"rejected" is text beside a list'),
        ({"prompt": [USER], "chosen": "b", "rejected": "c"}, "one form for all three"),
        ({"prompt": [USER], "chosen": [GOOD], "rejected": [GOOD]}, "are the same"),
        ({"prompt": [USER], "chosen": [USER], "rejected": [USER, BAD]}, "only the prompt"),
        ({"prompt": [USER], "chosen": [USER, USER], "rejected": [BAD]}, "does not open with"),
        ({"chosen": [GOOD], "rejected": [BAD]}, 'share no first message; give "prompt"'),
        ({"prompt": "", "chosen": "w " * 99 + "x", "rejected": "w " * 99 + "y"}, "for 62 tokens"),
        ({**PAIRS[0], "margin": "2"}, '"margin" is text; a number is accepted'),
        ({**PAIRS[0], "margin": None}, '"margin" is null'),
        ({**PAIRS[0], "margin": True}, '"margin" is true or false'),
        ({**PAIRS[0], "margin": float("nan")}, '"margin" is nan; a finite number is accepted'),
        ({**PAIRS[0], "margin": 10**400}, '"margin" is 1000'),
    ],
)
def test_bad_preferences(folder, row, problem):
    config = folder.config(pair_rows=[*PAIRS, row])
    with pytest.raises(DataError) as caught:
        make_jsonl(config)
    assert f"{config.preferences}:51: " in str(caught.value)
    assert problem in str(caught.value)
    task = make_jsonl(dataclasses.replace(config, skip_bad_rows=True))
    assert "50 preferences" in task.notes[0] and problem in task.notes[-1]


def test_many_bad_rows_are_counted(folder):
    with pytest.raises(DataError) as caught:
        make_jsonl(folder.config(prompt_rows=[*PROMPTS, *["?"] * 25]))
    lines = str(caught.value).splitlines()
    assert lines[0] == "25 bad rows" and lines[11] == "... and 15 more"
    assert "task.skip_bad_rows=true" in lines[-1] and len(lines) == 13


def test_marks_line_ends_and_blank_lines(folder):
    config = folder.config()
    data = "".join(json.dumps(row) + "\r\n\r\n" for row in PROMPTS)
    with open(config.prompts, "wb") as file:
        file.write(b"\xef\xbb\xbf" + data.encode())
    plain = make_jsonl(folder.config())
    with open(config.prompts, "wb") as file:
        file.write(b"\xef\xbb\xbf" + data.encode())
    marked = make_jsonl(config)
    np.testing.assert_array_equal(marked.train_prompts.tokens, plain.train_prompts.tokens)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"prompts": ""}, "task.prompts"),
        ({"prompts": "no/such/file.jsonl"}, "task.prompts"),
        ({"prompts": "."}, "task.prompts"),
        ({"preferences": ""}, "task.preferences"),
        ({"preferences": "no/such/file.jsonl"}, "task.preferences"),
        ({"preferences": "", "reward": "m:f", "text": "t.txt"}, "task.preferences"),
        ({"text": "no/such/file.txt"}, "task.text"),
        ({"heldout": 0.0}, "task.heldout"),
        ({"heldout": 1.0}, "task.heldout"),
        ({"max_prompt": 0}, "task.max_prompt"),
        ({"text_length": 34}, "task.text_length"),
        ({"vocab_size": 20}, "task.vocab_size"),
    ],
)
def test_settings_that_cannot_work(folder, changes, key):
    with pytest.raises(ConfigError) as caught:
        make_jsonl(folder.config(**changes))
    assert str(caught.value).startswith(f"{key}=")


@pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf"])
def test_empty_file(folder, content):
    config = folder.config()
    with open(config.prompts, "wb") as file:
        file.write(content)
    with pytest.raises(ConfigError, match=r"task\.prompts=.*this one is empty"):
        make_jsonl(config)


def test_too_few_rows(folder):
    with pytest.raises(DataError, match=r"task\.prompts: 3 usable prompts with 1 different"):
        make_jsonl(folder.config(prompt_rows=PROMPTS[:1] * 3))
    with pytest.raises(DataError, match=r"task\.preferences: 1 usable preferences with 1"):
        make_jsonl(folder.config(pair_rows=PAIRS[:1]))
    wanted = "leave 1 to train on and 1 held out; at least 2 and 1 are needed"
    with pytest.raises(DataError, match=rf"task\.preferences: 2 usable .* {wanted}"):
        make_jsonl(folder.config(pair_rows=[*PAIRS[:2], "?"], skip_bad_rows=True))
    with pytest.raises(DataError, match=rf"task\.prompts: 2 usable .* {wanted}"):
        make_jsonl(folder.config(prompt_rows=[{"prompt": "One"}, {"prompt": "Two"}]))
    with pytest.raises(DataError, match=r"task\.prompts: 0 usable prompts"):
        make_jsonl(folder.config(prompt_rows=["?"] * 3, skip_bad_rows=True))


def test_three_rows_are_enough(folder):
    task = make_jsonl(folder.config(prompt_rows=PROMPTS[:3], pair_rows=PAIRS[:3]))
    assert (len(task.train_prompts.tokens), len(task.eval_prompts.tokens)) == (2, 1)
    assert (len(task.train_pairs.margin), len(task.heldout_pairs.margin)) == (2, 1)


def test_margins_stay_with_their_pairs(folder):
    rows = [{**row, "margin": i / 4} if i % 2 else row for i, row in enumerate(PAIRS)]
    task = make_jsonl(folder.config(pair_rows=rows))
    seen = 0
    for batch in (task.train_pairs, task.heldout_pairs):
        assert batch.margin.dtype == np.float32
        for text, margin in zip(decoded(task, batch.chosen), batch.margin):
            i = int(text.split(" yes ")[1])
            assert margin == (i / 4 if i % 2 else 0.0)
            seen += 1
    assert seen == 50


def test_prompts_are_told_from_answers(folder):
    task = make_jsonl(folder.config())
    for batch in (task.train_pairs, task.heldout_pairs):
        assert batch.prompt_length.dtype == np.int32
        for texts, answer in ((batch.chosen, " yes "), (batch.rejected, " no")):
            for row, mask, size in zip(texts.tokens, texts.mask, batch.prompt_length):
                prompt, rest = (task.codec.decode(r) for r in (row[:size], row[mask][size:]))
                assert prompt.startswith("Question ") and prompt.endswith(":")
                assert rest.startswith(answer)


def test_the_fingerprint_sees_all_that_stages_see(folder):
    task = make_jsonl(folder.config())
    base = task.fingerprint()
    assert base == make_jsonl(folder.config()).fingerprint()
    train, heldout = (
        dataclasses.replace(batch, margin=batch.margin + 1)
        for batch in (task.train_pairs, task.heldout_pairs)
    )
    sizes = dataclasses.replace(task.train_pairs, prompt_length=task.train_pairs.prompt_length + 1)
    changes = [
        {"train_pairs": train},
        {"train_pairs": sizes},
        {"heldout_pairs": heldout},
        {"heldout_text": task.train_text},
        {"train_prompts": task.eval_prompts},
    ]
    found = {dataclasses.replace(task, **change).fingerprint() for change in changes}
    assert len(found) == 5 and base not in found
    assert dataclasses.replace(task, eval_prompts=task.train_prompts).fingerprint() == base


def test_texts_of_their_own(folder):
    task = make_jsonl(folder.config(text=folder.write("t.txt", ["One text.", "Two."])))
    assert task.train_pairs.chosen.tokens.shape == (46, 64)
    texts = decoded(task, task.train_text) + decoded(task, task.heldout_text)
    assert sorted(texts) == ["One text.", "Two."]


def test_text_as_json_lines_and_long_texts(folder):
    rows = [{"text": "long text " * 50}, {"text": "short"}]
    task = make_jsonl(folder.config(text=folder.write("t.jsonl", rows)))
    ends = (task.train_text.tokens == task.codec.eos_id).sum()
    ends += (task.heldout_text.tokens == task.codec.eos_id).sum()
    assert ends == 2 and task.train_text.tokens.shape[1] == 64
    with pytest.raises(DataError, match=r't\.jsonl:2: "text" is null'):
        make_jsonl(folder.config(text=folder.write("t.jsonl", [*rows[:1], {"no": 1}])))


def test_prompts_are_cut_at_their_start_and_counted(folder):
    long = {"prompt": "far " * 90 + "near", "chosen": " good end", "rejected": " bad"}
    task = make_jsonl(folder.config(pair_rows=[*PAIRS, long]))
    assert "1 of 51 preferences lost the start of their prompt" in task.notes[1]
    batches = (task.train_pairs, task.heldout_pairs)
    chosen = [t for b in batches for t in decoded(task, b.chosen)]
    rejected = [t for b in batches for t in decoded(task, b.rejected)]
    (one,) = [i for i, t in enumerate(chosen) if t.endswith("near good end")]
    assert rejected[one].removesuffix(" bad") == chosen[one].removesuffix(" good end")
    sizes = np.concatenate([batch.prompt_length for batch in batches])
    texts = np.concatenate([batch.chosen.tokens for batch in batches])
    assert task.codec.decode(texts[one, : sizes[one]]).endswith("far near")


def test_answers_too_long_lose_their_end():
    fitted = fit_pair("", [5, 6], [7, 8, 9, 9, 9], [8], 5)
    assert fitted.chosen == [1, 7, 8, 9, 2] and fitted.rejected == [1, 8, 2]
    assert fitted.prompt_cut and fitted.answer_cut and fitted.prompt_length == 1
    with pytest.raises(BadRow, match="the same for 3 tokens"):
        fit_pair("", [], [7, 8, 9, 9], [7, 8, 9, 8], 5)


def test_sides_are_stable():
    sides = {"a": False, "b": True}
    assign_sides(["a", "b", "c", "d"], 0.5, 0, sides)
    assert sum(sides.values()) == 2 and not sides["a"] and sides["b"]


class TestConversations:
    """The Hugging Face preference conventions, conversational and plain."""

    render = staticmethod(make_renderer())
    expected = Preference("<|user|>\nHi\n<|assistant|>\n", "Hello!", "Go away")

    @pytest.mark.parametrize(
        "row",
        [
            {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
            {"prompt": [USER], "chosen": [USER, GOOD], "rejected": [USER, BAD]},
            {"prompt": "Hi", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
            {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
            {"chosen": [USER, GOOD | {"name": "x"}], "rejected": [USER, BAD]},
        ],
    )
    def test_forms_of_one_pair(self, row):
        assert parse_preference(row, self.render) == self.expected

    def test_answers_of_several_turns(self):
        row = {"chosen": [USER, GOOD, USER, GOOD], "rejected": [USER, GOOD, USER, BAD]}
        prompt, chosen, *_ = parse_preference(row, self.render)
        assert prompt == "<|user|>\nHi\n<|assistant|>\nHello!\n<|user|>\nHi\n<|assistant|>\n"
        assert chosen == "Hello!"

    @pytest.mark.parametrize(
        ("chosen", "rejected", "expected"),
        [
            ("Sky is blue.", "Sky is green.", ("Sky is", " blue.", " green.")),
            ("a: good", "a: gone", ("a:", " good", " gone")),
            ("Q\n\nA: x", "Q\n\nA: y", ("Q\n\nA:", " x", " y")),
            ("good", "gone", ("", "good", "gone")),
        ],
    )
    def test_implicit_plain_prompt(self, chosen, rejected, expected):
        row = {"chosen": chosen, "rejected": rejected}
        assert parse_preference(row, self.render) == Preference(*expected)

    def test_plain_prompt_is_left_alone(self):
        row = {"prompt": "a", "chosen": "a b", "rejected": "a c"}
        assert parse_preference(row, self.render) == Preference("a", "a b", "a c")

    def test_whole_task(self, folder):
        prompts = [{"prompt": [{"role": "user", "content": f"Hi {i}"}]} for i in range(9)]
        pairs = [p | {"chosen": [GOOD], "rejected": [BAD]} for p in prompts]
        task = make_jsonl(folder.config(prompt_rows=prompts, pair_rows=pairs))
        shown = decoded(task, task.train_prompts)[0]
        assert shown.startswith("<|user|>\nHi ") and shown.endswith("\n<|assistant|>\n")

    def test_own_template(self, folder):
        template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}"
        template += "{% if add_generation_prompt %}[assistant]{% endif %}{{ eos_token }}"
        row = {"chosen": [USER, GOOD], "rejected": [USER, BAD]}
        pair = parse_preference(row, make_renderer(template))
        assert pair == Preference("[user]Hi[assistant]", "Hello!", "Go away")

    def test_bad_templates(self):
        with pytest.raises(ConfigError, match=r"task\.chat_template=.*valid Jinja"):
            make_renderer("{% for %}")
        for template in ("{{ raise_exception('no users') }}", "{{ missing.attribute }}"):
            with pytest.raises(BadRow, match="the chat template failed"):
                make_renderer(template)([USER], True)

    def test_template_cannot_reach_python(self):
        with pytest.raises(BadRow, match="unsafe"):
            make_renderer("{{ messages.__class__.__mro__ }}")([USER], True)
