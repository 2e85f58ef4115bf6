"""What a row asks: its shape recognised by its columns, or read as the caller says.

A row is read in exactly one way: if two columns could be the question, it is an error rather than a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from pydantic_core import from_json

from symmoe.errors import InputError, RequestError
from symmoe.types import Message
from symmoe.types.quick import quick

MOST_ID = 512
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_CONTEXTS = ("context", "passage", "article", "paragraph", "story")
_OPTIONS, _WITH_OPTIONS = ("choices", "options"), "its options"
_REFERENCES = (
    "reference answer reference_answer gold_answer answer answerkey correct_answer best_answer correct target solution "
    "output response completion canonical_solution"
).split()
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
}
_LETTERED = re.compile(r"\s*\(?([A-Z])[).:]")
_LAYOUTS = 256
_SAY = "say --prompt-column COLUMN, or --prompt 'a template with {{ COLUMN }}'"


class ShapeError(RequestError):
    """A row whose question cannot be determined. Its code is `ambiguous_shape` where there is more than one way."""

    def __init__(self, message: str, code: str, row: Mapping[str, Any]) -> None:
        super().__init__(f"{message}; {_named(row)}"[:600], code=code, hint=what_to_write(code))


def what_to_write(code: str) -> str:
    """What to do about a `ShapeError` of this code."""
    return "name a column that is there" if code == "missing_column" else _SAY


@quick(frozen=True, slots=True)
class Asked:
    """What a row asks: a conversation that ends with its question, and the questions that follow its answer.

    `shape` names the columns that it was read from. `reference` is the known answer if the row has one, in a grader's
    form: a letter if the question has `options`. `id` is None for a row without one.
    """

    shape: str
    messages: tuple[Message, ...]
    later: tuple[str, ...] = ()
    id: str | None = None
    reference: str | None = None

    @property
    def options(self) -> bool:
        """Whether the question lists options."""
        return self.shape.endswith(_WITH_OPTIONS)


@dataclass(frozen=True)
class Reading:
    """How the caller wants rows read: which column is what, or a Jinja template over the columns.

    Raises `InputError` for an invalid template, and if both a question column and a template are given.
    """

    prompt: str | None = None
    prompt_column: str | None = None
    id_column: str | None = None
    system: str | None = None
    reference: str | None = None
    score: bool = False

    def __post_init__(self) -> None:
        if self.prompt is not None and self.prompt_column is not None:
            raise InputError("--prompt and --prompt-column are both given", hint="give one of them")
        _ = self._template

    @cached_property
    def _template(self) -> Callable[..., str] | None:
        if self.prompt is None:
            return None
        from jinja2 import StrictUndefined, TemplateSyntaxError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, keep_trailing_newline=True)
        try:
            template = environment.from_string(self.prompt)
        except TemplateSyntaxError as error:
            raise InputError(f"--prompt is no Jinja template: {error}") from error
        template.globals = dict(template.globals)  # a chain of mappings, which is copied for every row
        return template.render

    def asked(self, row: Mapping[str, Any]) -> Asked:
        """What a row asks. Raises `RequestError`, and `ShapeError` for a row of no known shape."""
        shape, turns, later = self._question(row)
        if not any(message.content.strip() for message in turns):
            raise RequestError("the messages are empty", code="invalid_value")
        if self.system is not None and turns[0].role != "system":
            turns = (Message("system", self.system), *turns)
        wanted = self.score or self.reference is not None
        return Asked(shape, turns, later, self.ident(row), reference_of(row, self.reference) if wanted else None)

    def ident(self, row: Mapping[str, Any]) -> str | None:
        """A row's id. Raises `RequestError` for one that is neither text nor a whole number, or is too long."""
        if self.id_column is not None and self.id_column not in row:
            raise ShapeError(f"--id-column: no column {self.id_column!r}", "missing_column", row)
        named = row.get(self.id_column or "id")
        if named is None or named == "":
            return None
        ident = str(named) if type(named) is int and -(2**63) <= named < 2**63 else named
        if not isinstance(ident, str) or len(ident) > MOST_ID:
            message = f"id must be a whole number or a text of 1 to {MOST_ID} characters"
            raise RequestError(message, code="invalid_id")
        return ident

    def _question(self, row: Mapping[str, Any]) -> tuple[str, tuple[Message, ...], tuple[str, ...]]:
        if self._template is not None:
            return "--prompt", _user(self._rendered(row)), ()
        if self.prompt_column is None:
            return _recognised(row)
        if self.prompt_column not in row:
            raise ShapeError(f"--prompt-column: no column {self.prompt_column!r}", "missing_column", row)
        value = row[self.prompt_column]
        if isinstance(value, list):
            read = _turns if all(isinstance(each, str) for each in value) else _conversation
            return self.prompt_column, *read(value, self.prompt_column)
        return self.prompt_column, _user(_text(value, self.prompt_column)), ()

    def _rendered(self, row: Mapping[str, Any]) -> str:
        from jinja2 import TemplateError

        assert self._template is not None  # noqa: S101 - its caller has looked
        try:
            return self._template(**{str(name): value for name, value in row.items()})
        except (TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
            raise ShapeError(f"--prompt cannot be filled: {error}", "invalid_template", row) from error


_Read = tuple[str, tuple[Message, ...], tuple[str, ...]]
"""The columns, the conversation up to its question, and the questions that follow."""


@lru_cache(_LAYOUTS)
def _layout(names: tuple[str, ...]) -> tuple[dict[str, str], list[str]]:
    """The columns of rows with these by the names they are looked for, and those that may hold the question."""
    columns = {name.lower().replace(" ", "_"): name for name in names}
    return columns, [name for name in _SHAPES if name in columns]


def _recognised(row: Mapping[str, Any]) -> _Read:
    columns, shapes = _layout(tuple(row))
    if not shapes:
        raise ShapeError("no column that is known to hold a question", "unknown_shape", row)
    filled = [name for name in shapes if row[columns[name]] not in (None, "", [])]
    if not filled:
        empty = columns[shapes[0]]
        raise RequestError(f"{empty} is empty", code="invalid_value")
    first = _SHAPES[filled[0]](row, columns)
    if any(_SHAPES[name](row, columns)[1:] != first[1:] for name in filled[1:]):
        named = " or ".join(repr(columns[name]) for name in filled)
        raise ShapeError(f"the question could be {named}", "ambiguous_shape", row)
    return first


def _prompt(row: Mapping[str, Any], columns: Mapping[str, str]) -> _Read:
    value = row[columns["prompt"]]
    if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
        return columns["prompt"], *_conversation(value, columns["prompt"])
    if not isinstance(value, str):
        raise RequestError("prompt must be a text", code="invalid_prompt")
    return columns["prompt"], _user(value), ()


def _messages(row: Mapping[str, Any], columns: Mapping[str, str]) -> _Read:
    name = columns["messages"]
    return name, *_conversation(_listed(row[name], name), name)


def _conversations(row: Mapping[str, Any], columns: Mapping[str, str]) -> _Read:
    name = columns["conversations"]
    return name, *_conversation(_listed(row[name], name), name)


def _of_turns(row: Mapping[str, Any], columns: Mapping[str, str]) -> _Read:
    name = columns["turns"]
    value = _listed(row[name], name)
    read = _turns if all(isinstance(each, str) for each in value) else _conversation
    return name, *read(value, name)


def _instruction(row: Mapping[str, Any], columns: Mapping[str, str]) -> _Read:
    name = columns["instruction"]
    more, text = _context(row, columns, ("input", *_CONTEXTS)), _text(row[name], name)
    return " + ".join((name, *more)), _user("\n\n".join((text, *more.values()))), ()


def _question(row: Mapping[str, Any], columns: Mapping[str, str]) -> _Read:
    return _with_options("question", row, columns)


def _problem(row: Mapping[str, Any], columns: Mapping[str, str]) -> _Read:
    return _with_options("problem", row, columns)


def _with_options(kind: str, row: Mapping[str, Any], columns: Mapping[str, str]) -> _Read:
    """What stands before it, the question, and its options, each after its letter."""
    name = columns[kind]
    value, options = row[name], options_of(row)
    stem = value.get("stem") if isinstance(value, dict) else value
    more = _context(row, columns, _CONTEXTS)
    lettered = tuple(f"{letter}. {option}" if letter else option for letter, option, _ in options)
    shape = " + ".join((*more, name, *([_WITH_OPTIONS] if options else [])))
    question = "\n".join((_text(stem, name), *lettered))
    return shape, _user("\n\n".join((*more.values(), question))), ()


_SHAPES: dict[str, Callable[[Mapping[str, Any], Mapping[str, str]], _Read]] = {
    "messages": _messages,
    "prompt": _prompt,
    "question": _question,
    "problem": _problem,
    "instruction": _instruction,
    "conversations": _conversations,
    "turns": _of_turns,
}


def options_of(row: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The options that a row lists: each one's letter (empty if the text begins with it), text and label.

    They are a list of texts, texts and labels as in ARC and CommonsenseQA, an object by letters, or columns called A,
    B, C. Raises `RequestError` for others.
    """
    value = next((row[name] for name in row if name.lower() in _OPTIONS and row[name] not in (None, "", [])), None)
    inner = row.get("question")
    if value is None and isinstance(inner, Mapping):
        value = inner.get("choices")
    if value is None:
        lettered = [(letter, row[letter]) for letter in _LETTERS if row.get(letter) not in (None, "")]
        apart = len(lettered) > 1 and [letter for letter, _ in lettered] == list(_LETTERS[: len(lettered)])
        return [(letter, _text(option, letter), letter) for letter, option in lettered] if apart else []
    value = _parsed(value)
    if isinstance(value, Mapping) and isinstance(value.get("text"), list):
        labels = value.get("label") or list(_LETTERS)
        value = [{"label": label, "text": text} for label, text in zip(labels, value["text"], strict=False)]
    if isinstance(value, Mapping):
        value = [{"label": label, "text": text} for label, text in value.items() if text is not None]
    if not isinstance(value, list) or not 0 < len(value) <= len(_LETTERS):
        raise RequestError(f"the options are no list of at most {len(_LETTERS)}", code="invalid_options")
    if all(isinstance(option, Mapping) for option in value):
        labelled = [(str(option.get("label", "")), _text(option.get("text"), "an option")) for option in value]
        return [(letter, text, label) for letter, (label, text) in zip(_LETTERS, labelled, strict=False)]
    texts = [str(option) if isinstance(option, int | float) else _text(option, "an option") for option in value]
    marks = [_LETTERED.match(text) for text in texts]
    has_letters = all(mark and mark.group(1) == letter for mark, letter in zip(marks, _LETTERS, strict=False))
    return [("" if has_letters else letter, text, letter) for letter, text in zip(_LETTERS, texts, strict=False)]


def reference_of(row: Mapping[str, Any], column: str | None = None) -> str | None:
    """The known answer of a row: its named column, otherwise the first column with a usual name for it.

    For a question with options it is a letter. Raises `ShapeError` if the named column is missing.
    """
    if column is not None and column not in row:
        raise ShapeError(f"--reference: no column {column!r}", "missing_column", row)
    columns = {name.lower().replace(" ", "_"): name for name in row}
    named = [columns[name] for name in _REFERENCES if name in columns] if column is None else [column]
    value = next((row[name] for name in named if isinstance(row[name], str | int | float) and row[name] != ""), None)
    if value is None:
        return None
    options = options_of(row)
    if options and type(value) is int and 0 <= value < len(options):
        return _LETTERS[value]
    letters = (_LETTERS[place] for place, (_, text, label) in enumerate(options) if value in (text, label))
    return next(letters, str(value))


def _context(row: Mapping[str, Any], columns: Mapping[str, str], names: Sequence[str]) -> dict[str, str]:
    """What a question is about, where columns hold that."""
    filled = [columns[name] for name in names if name in columns and row[columns[name]] not in (None, "", [])]
    for name in filled:
        if not isinstance(row[name], str):
            message = f"the question may need {name!r}, which is no text"
            raise ShapeError(message, "ambiguous_shape", row)
    return {name: row[name] for name in filled}


def _conversation(value: Sequence[Any], name: str) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """A conversation up to the last turn of the user's: what was answered to that is not told."""
    turns = [_turn(each, name) for each in value]
    while turns and turns[-1].role == "assistant":
        turns.pop()
    if not any(turn.role == "user" for turn in turns):
        raise RequestError(f"{name}: nobody asks anything", code="invalid_messages", param=name)
    return tuple(turns), ()


def _turn(value: Any, name: str) -> Message:
    turn = value if isinstance(value, Mapping) else {}
    content = turn.get("content", turn.get("value"))
    role = _SPEAKERS.get(str(turn.get("role", turn.get("from"))).lower())
    if isinstance(content, list) and all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        content = "".join(str(part.get("text", "")) for part in content)
    content = "" if content is None and turn.get("tool_calls") else content
    if role is None or not isinstance(content, str):
        message = f"{name}: a turn has a role (user, assistant, system) and a content that is a text"
        raise RequestError(message, code="invalid_messages", param=name)
    return Message(role, content)


def _turns(value: Sequence[Any], name: str) -> tuple[tuple[Message, ...], tuple[str, ...]]:
    """Questions of one user, one after another."""
    if not value or not all(isinstance(each, str) and each.strip() for each in value):
        raise RequestError(f"{name}: an empty turn", code="invalid_value", param=name)
    return _user(value[0]), tuple(value[1:])


def _user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise RequestError(f"{name} must be a text", code="invalid_prompt", param=name)
    return value


def _listed(value: Any, name: str) -> list[Any]:
    """A list, also one that is written as JSON in a cell."""
    value = _parsed(value)
    if not isinstance(value, list):
        raise RequestError(f"{name} must be a list", code="invalid_messages", param=name)
    return value


def _parsed(value: Any) -> Any:
    """A list or an object that is written as JSON in a cell; anything else as it is."""
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        with suppress(ValueError):
            return from_json(value)  # which takes no half of a surrogate pair, as `json` does
    return value


def _named(row: Mapping[str, Any]) -> str:
    """The columns of a row, for a message."""
    names = [repr(str(name)[:60]) for name in row]
    more = f" and {len(names) - 12} more" if len(names) > 12 else ""
    return f"its columns are {', '.join(names[:12]) or 'none'}{more}"
