"""Renders Go templates as Helm does: the part of the language that symmoe's chart uses, and an error for the rest.

https://pkg.go.dev/text/template, and the functions that Helm adds. The chart is the one source of all manifests, and
`symmoe k8s render` must not need Helm; tests hold that both give the same objects.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from symmoe.errors import ConfigError

Scope = dict[str, Any]
"""The value of each name: `.` (where paths begin), `$` (the root), and variables as `$name`."""
_ACTION = re.compile(r"\{\{(?P<left>-(?=\s))?\s*(?P<text>.*?)\s*(?P<right>(?<=\s)-)?\}\}", re.DOTALL)
_TOKEN = re.compile(
    r"""\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<number>-?\d+(?:\.\d+)?)(?![\w.])|(?P<path>\$?\w*(?:\.\w+)+|\.|\$\w*)"""
    r"""|(?P<word>\w+)|(?P<sign>:=|[|(),]))"""
)
_OPENING = ("if", "with", "range", "define")


@dataclass
class _Block:
    """A part of a template: text and actions in order, or the condition and content of each branch."""

    kind: str
    parts: list[Any] = field(default_factory=list)
    branches: list[tuple[str, list[Any]]] = field(default_factory=list)


class Templates:
    """A set of templates; `include` finds what any of them defines."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        """Parse `texts`, given by file name. Raises `ConfigError`, which names the file and the fault."""
        self._defined: dict[str, list[Any]] = {}
        self._files = {name: self._parsed(name, text) for name, text in texts.items()}
        self._functions: dict[str, Callable[..., Any]] = {**FUNCTIONS, "include": self._included}

    def render(self, name: str, values: Mapping[str, Any]) -> str:
        """The rendered text of a file, with `values` as `.` and `$`. Raises `ConfigError` if it cannot be rendered."""
        try:
            return self._text(self._files[name], {".": values, "$": values})
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ConfigError(f"{name}: {type(error).__name__} {error}") from error

    def _included(self, name: str, data: Any) -> str:
        return self._text(self._defined[name], {".": data, "$": data})

    def _parsed(self, name: str, text: str) -> list[Any]:
        stack, at, trim = [_Block("file")], 0, False
        for found in _ACTION.finditer(text):
            between = text[at : found.start()]
            between = between.lstrip() if trim else between
            stack[-1].parts.append(between.rstrip() if found["left"] else between)
            at, trim = found.end(), bool(found["right"])
            word, _, rest = found["text"].partition(" ")
            if word.startswith("/*"):
                continue
            if word in _OPENING:
                stack.append(_Block(word, branches=[(rest, [])]))
                stack[-1].parts = stack[-1].branches[-1][1]
            elif word == "else":
                stack[-1].branches.append((rest.removeprefix("if ").strip(), []))
                stack[-1].parts = stack[-1].branches[-1][1]
            elif word == "end":
                done = stack.pop()
                if not stack:
                    raise ConfigError(f"{name}: an end without a beginning")
                if done.kind == "define":
                    self._defined[json.loads(done.branches[0][0])] = done.parts
                else:
                    stack[-1].parts.append(done)
            else:
                stack[-1].parts.append(("action", found["text"]))
        if len(stack) > 1:
            raise ConfigError(f"{name}: {stack[-1].kind} without an end")
        stack[-1].parts.append(text[at:].lstrip() if trim else text[at:])
        return stack[-1].parts

    def _text(self, parts: Sequence[Any], scope: Scope) -> str:
        scope, rendered = dict(scope), []
        for part in parts:
            if isinstance(part, str):
                rendered.append(part)
            elif isinstance(part, _Block):
                rendered.append(self._branching(part, scope))
            else:
                rendered.append(_printed(self._value(part[1], scope)))
        return "".join(rendered)

    def _branching(self, block: _Block, scope: Scope) -> str:
        for condition, parts in block.branches:
            if not condition:
                return self._text(parts, scope)
            names, value = self._named(condition, scope)
            if block.kind == "range":
                items = sorted(value.items()) if isinstance(value, Mapping) else list(enumerate(value or ()))
                if items:
                    each = (dict(zip(names, item[-len(names) :], strict=True)) if names else {} for item in items)
                    own = zip(each, items, strict=True)
                    return "".join(self._text(parts, {**scope, **more, ".": item[1]}) for more, item in own)
            elif value:
                return self._text(parts, {**scope, ".": value} if block.kind == "with" else scope)
        return ""

    def _named(self, text: str, scope: Scope) -> tuple[list[str], Any]:
        names, sign, rest = text.partition(":=")
        return (
            ([name.strip() for name in names.split(",")], self._value(rest, scope))
            if sign
            else (
                [],
                self._value(text, scope),
            )
        )

    def _value(self, text: str, scope: Scope) -> Any:
        """The value of a pipeline; an assignment has none."""
        name, sign, rest = text.partition(":=")
        if sign:
            scope[name.strip()] = self._value(rest, scope)
            return ""
        tokens = list(_tokens(text))
        value = self._pipeline(tokens, scope)
        if tokens:
            raise ValueError(f"{text!r} is not understood from {tokens[0][1]!r} on")
        return value

    def _pipeline(self, tokens: list[tuple[str, str]], scope: Scope) -> Any:
        value = self._command(tokens, scope, ())
        while tokens and tokens[0][1] == "|":
            tokens.pop(0)
            value = self._command(tokens, scope, (value,))
        return value

    def _command(self, tokens: list[tuple[str, str]], scope: Scope, piped: tuple[Any, ...]) -> Any:
        kind, text = tokens[0]
        plain = kind != "word" or text in ("true", "false", "nil")
        function = self._operand(tokens, scope) if plain else self._functions[tokens.pop(0)[1]]
        if plain and not callable(function):
            return function
        given = []
        while tokens and tokens[0][1] not in ("|", ")"):
            given.append(self._operand(tokens, scope))
        return function(*given, *piped)

    def _operand(self, tokens: list[tuple[str, str]], scope: Scope) -> Any:
        kind, text = tokens.pop(0)
        if kind == "text":
            return json.loads(text)
        if kind == "number":
            return float(text) if "." in text else int(text)
        if kind == "path":
            return _found(text, scope)
        if text == "(":
            value = self._pipeline(tokens, scope)
            tokens.pop(0)
            return value
        return {"true": True, "false": False, "nil": None}[text]


def _tokens(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while at < len(text.rstrip()):
        token = _TOKEN.match(text, at)
        if token is None or token.lastgroup is None:
            raise ValueError(f"{text!r} is not understood from {text[at:]!r} on")
        found.append((token.lastgroup, token[token.lastgroup]))
        at = token.end()
    return found


def _found(path: str, scope: Scope) -> Any:
    first, *keys = path.split(".")
    value = scope[first or "."]
    for key in keys if path != "." else ():
        value = value[key]
    return value


def _printed(value: Any) -> str:
    if value is None or isinstance(value, (list, dict)):
        raise TypeError(f"{value!r} has no text")
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _indented(count: int, text: str) -> str:
    return "\n".join(" " * count + line for line in text.split("\n"))


def _to_json(value: Any) -> str:
    """The value as JSON, as Go's encoder writes it."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _fail(message: str) -> None:
    raise ConfigError(message)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "toYaml": lambda value: yaml.safe_dump(value, width=1 << 20, allow_unicode=True).removesuffix("...\n").rstrip("\n"),
    "toJson": _to_json,
    "quote": lambda value: json.dumps(_printed(value), ensure_ascii=False),
    "indent": _indented,
    "nindent": lambda count, text: "\n" + _indented(count, text),
    "default": lambda other, value: value or other,
    "int": int,
    "add": lambda *numbers: sum(int(number) for number in numbers),
    "sub": lambda a, b: int(a) - int(b),
    "mul": lambda a, b: int(a) * int(b),
    "min": lambda *numbers: min(int(number) for number in numbers),
    "max": lambda *numbers: max(int(number) for number in numbers),
    "eq": lambda value, *others: value in others,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "not": lambda value: not value,
    "and": lambda *values: next((value for value in values[:-1] if not value), values[-1]),
    "or": lambda *values: next((value for value in values[:-1] if value), values[-1]),
    "ternary": lambda yes, no, test: yes if test else no,
    "printf": lambda form, *values: form.replace("%v", "%s") % values,
    "sha256sum": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "trunc": lambda length, text: text[:length],
    "list": lambda *items: list(items),
    "dict": lambda *pairs: dict(zip(pairs[::2], pairs[1::2], strict=True)),
    "merge": lambda *parts: {key: value for part in reversed(parts) for key, value in part.items()},
    "fail": _fail,
}
"""The functions that templates may call, by their names in Helm."""
