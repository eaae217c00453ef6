"""From rows in the Hugging Face schemas, plain or conversational, to prompts and answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from rlhf_jax.config import ConfigError
from rlhf_jax.tasks.jsonl.rows import BadRow, check_number, check_text, kind

# An assistant turn renders as its bare content, so what a policy writes is the answer itself.
DEFAULT_TEMPLATE = (
    "{% for m in messages %}{{ '\\n' if not loop.first }}{{ '<|' + m.role + '|>\\n' + m.content }}"
    "{% endfor %}{{ '\\n<|assistant|>\\n' if add_generation_prompt }}"
)
_FORMS = 'text, or a list of {"role": ..., "content": ...} messages, is accepted'

Messages = list[dict[str, str]]
Render = Callable[[Messages, bool], str]


class Preference(NamedTuple):
    """A prompt and two answers to it, as text."""

    prompt: str
    chosen: str
    rejected: str
    margin: float = 0.0  # how much better the chosen answer is, 0 if unknown

    def texts(self) -> tuple[str, str, str]:
        """Prompt, chosen and rejected answer."""
        return self.prompt, self.chosen, self.rejected


def make_renderer(template: str = DEFAULT_TEMPLATE) -> Render:
    """`render(messages, add_generation_prompt)` of a Jinja chat template, sandboxed.

    Raises: ConfigError where the template has a syntax error.

    >>> make_renderer()([{"role": "user", "content": "Hi"}], True)
    '<|user|>\\nHi\\n<|assistant|>\\n'
    """
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise_exception"] = _refuse
    try:
        compiled = environment.from_string(template)
    except jinja2.TemplateError as error:
        raise ConfigError("task.chat_template", template, f"valid Jinja ({error})") from None

    def render(messages: Messages, add_generation_prompt: bool) -> str:
        try:
            return compiled.render(
                messages=messages,
                add_generation_prompt=add_generation_prompt,
                bos_token="",  # the task puts its own BOS and EOS around a text
                eos_token="",
            )
        except (jinja2.TemplateError, TypeError) as error:
            accepted = "messages the chat template can render are accepted"
            raise BadRow(f"the chat template failed ({error}); {accepted}") from None

    return render


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def parse_prompt(row: dict[str, Any], render: Render) -> str:
    """The prompt of a row as text. Raises: BadRow."""
    value = _get(row, "prompt")
    if isinstance(value, list):
        return render(_messages("prompt", value), True)
    return check_text("prompt", _text_or_list("prompt", value))


def parse_preference(row: dict[str, Any], render: Render) -> Preference:
    """Prompt and answers of a row; without a "prompt" it is what both answers open with.

    A "margin", if there is one, says by how much the chosen answer is better.

    Raises: BadRow.
    """
    chosen, rejected = _get(row, "chosen"), _get(row, "rejected")
    if isinstance(chosen, list) or isinstance(rejected, list):
        found = _conversation(row, _messages("chosen", chosen), _messages("rejected", rejected))
        pair = _render_conversation(*found, render)
    else:
        pair = _plain(row, _text_or_list("chosen", chosen), _text_or_list("rejected", rejected))
    for key in ("chosen", "rejected"):
        if not getattr(pair, key).strip():
            raise BadRow(f'"{key}" is empty after the prompt; a non-empty answer is accepted')
    return pair._replace(margin=check_number("margin", row.get("margin", 0.0)))


def _plain(row: dict[str, Any], chosen: object, rejected: object) -> Preference:
    one, two = check_text("chosen", chosen), check_text("rejected", rejected)
    _differ(one == two)
    if "prompt" in row:
        if isinstance(row["prompt"], list):
            raise BadRow('"prompt" is a list but the answers are text; one form for all three')
        prompt = check_text("prompt", _text_or_list("prompt", row["prompt"]), empty=True)
        return Preference(prompt, one, two)
    size = _shared_opening(one, two)
    return Preference(one[:size], one[size:], two[size:])


def _shared_opening(one: str, two: str) -> int:
    """Characters both texts open with, up to a whole word.

    >>> _shared_opening("a film: good", "a film: gone"), _shared_opening("a cat", "a cup")
    (7, 1)
    """
    size = _common(one, two)
    while size and one[size - 1].isalnum() and _in_word(one, two, size):
        size -= 1
    # A space opens the answer, as it would in a sentence.
    return size - (one[size - 1 : size] == " ")


def _common(one: Sequence[Any], two: Sequence[Any]) -> int:
    return sum(1 for _ in itertools.takewhile(lambda both: both[0] == both[1], zip(one, two)))


def _in_word(one: str, two: str, at: int) -> bool:
    return one[at : at + 1].isalnum() or two[at : at + 1].isalnum()


def _conversation(
    row: dict[str, Any], chosen: Messages, rejected: Messages
) -> tuple[Messages, Messages, Messages]:
    _differ(chosen == rejected)
    if "prompt" in row:
        value = row["prompt"]
        prompt = (
            [{"role": "user", "content": check_text("prompt", value)}]
            if isinstance(value, str)
            else _messages("prompt", value)
        )
        if chosen[: len(prompt)] == prompt == rejected[: len(prompt)]:
            return prompt, chosen[len(prompt) :], rejected[len(prompt) :]
        return prompt, chosen, rejected
    size = _common(chosen, rejected)
    if not size:
        raise BadRow('no "prompt", and the answers share no first message; give "prompt"')
    return chosen[:size], chosen[size:], rejected[size:]


def _render_conversation(
    prompt: Messages, chosen: Messages, rejected: Messages, render: Render
) -> Preference:
    opening = render(prompt, True)
    answers: list[str] = []
    for key, messages in (("chosen", chosen), ("rejected", rejected)):
        if not messages:
            raise BadRow(f'"{key}" holds only the prompt; at least one answer is accepted')
        whole = render([*prompt, *messages], False)
        if not whole.startswith(opening):
            raise BadRow(
                f'"{key}" rendered by the chat template does not open with the rendered prompt; '
                "an assistant answer, and a template that only adds to the end, are accepted"
            )
        answers.append(whole[len(opening) :])
    return Preference(opening, answers[0], answers[1])


def _differ(same: bool) -> None:
    if same:
        raise BadRow('"chosen" and "rejected" are the same; two different answers are accepted')


def _get(row: dict[str, Any], key: str) -> Any:
    if key not in row:
        raise BadRow(f'no "{key}" (it has {", ".join(sorted(row)) or "no keys"}); {_FORMS}')
    return row[key]


def _text_or_list(key: str, value: object) -> object:
    if not isinstance(value, str | list):
        raise BadRow(f'"{key}" is {kind(value)}; {_FORMS}')
    return value


def _messages(key: str, value: object) -> Messages:
    if not isinstance(value, list):
        raise BadRow(f'"{key}" is {kind(value)} beside a list of messages; one form for both')
    if not value:
        raise BadRow(f'"{key}" is an empty list; {_FORMS}')
    for i, message in enumerate(value):
        if not (isinstance(message, dict) and {"role", "content"} <= message.keys()):
            wanted = '{"role": ..., "content": ...} is accepted'
            raise BadRow(f'"{key}"[{i}] is not a message with a role and a content; {wanted}')
        check_text(f"{key}[{i}].role", message["role"])
        check_text(f"{key}[{i}].content", message["content"], empty=True)
    return [{"role": m["role"], "content": m["content"]} for m in value]
