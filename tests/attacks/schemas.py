"""Odd schemas: what clients write by mistake, and what somebody writes who means harm."""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]


def text(**more: Any) -> Schema:
    """An object with one text."""
    return {"type": "object", "properties": {"a": {"type": "string", **more}}, "required": ["a"]}


def pattern(pattern: str) -> Schema:
    return text(pattern=pattern)


def _nested(depth: int) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


def _numbers(count: int, **more: Any) -> Schema:
    return {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(count)}, **more}


def _bomb(depth: int) -> Schema:
    def twice(number: int) -> Schema:
        both = {"$ref": f"#/$defs/d{number + 1}"}
        return {"type": "object", "properties": {"a": both, "b": both}, "required": ["a", "b"]}

    definitions: Schema = {f"d{n}": twice(n) for n in range(depth)}
    return {"$defs": {**definitions, f"d{depth}": {"type": "integer"}}, "$ref": "#/$defs/d0"}


KILLER = pattern("[\\u0000-\\uffff]{1,20000}")
"""Ends an engine: its thread makes a grammar of it for longer than an engine may stand still."""
BLOCKER = _numbers(300, minProperties=100)
"""Compiles for minutes."""
BROKEN_COMPILER = pattern("^[a-z]{1,129}$")
"""Passes xgrammar's parser and fails in its compiler (mlc-ai/xgrammar issue 863)."""

ODD: dict[str, Schema] = {
    "every character, 20,000 times": KILLER,
    "every character but NUL, 20,000 times": pattern("[\\u0001-\\uffff]{1,20000}"),
    "100 of 300 properties": BLOCKER,
    "20 of 40 properties": _numbers(40, minProperties=20),
    "properties between bounds": _numbers(120, minProperties=40, maxProperties=60),
    "129 letters": BROKEN_COMPILER,
    "128 letters": pattern("^[a-z]{1,128}$"),
    "2,000 letters": pattern("^[a-z]{1,2000}$"),
    "500 of any character": pattern("^.{1,500}$"),
    "exactly a million": pattern("^a{1000000}$"),
    "bounds the wrong way round": pattern("^a{9,3}$"),
    "nested plus": pattern("(((a+)+)+)+b"),
    "nested star": pattern("^(a*)*(a*)*(a*)*$"),
    "nested counts": pattern("((a{1,30}){1,30}){1,30}"),
    "deeper nested counts": pattern("(((((a{1,9}){1,9}){1,9}){1,9}){1,9}){1,9}"),
    "optional letters": pattern("^" + "a?" * 60 + "a" * 60 + "$"),
    "overlapping choices": pattern("^(a|aa|aaa|aaaa)*(aa|aaa)*b$"),
    "a thousand choices": pattern("^(" + "|".join(f"w{n}" for n in range(1000)) + ")$"),
    "lookahead": pattern("(?=a)b"),
    "negative lookahead": pattern("^(?!a).*$"),
    "lookbehind": pattern("(?<=a)b"),
    "backreference": pattern("(a)\\1"),
    "named group": pattern("(?P<a>x)(?P=a)"),
    "unicode classes": pattern("^[\\p{L}\\p{N}]{1,50}$"),
    "half a surrogate": pattern("\\ud800"),
    "half a surrogate as such": pattern("\ud800"),
    "NUL": pattern("a\x00b"),
    "open bracket": pattern("["),
    "open group": pattern("(a"),
    "a count of nothing": pattern("{3}"),
    "empty pattern": pattern(""),
    "15,000 characters": pattern("a" * 15_000),
    "a long text": text(maxLength=5_000),
    "a text of a billion": text(minLength=1_000_000_000),
    "contradictory lengths": text(minLength=5, maxLength=3),
    "negative length": text(maxLength=-1),
    "pattern and length": text(pattern="^a+$", maxLength=3),
    "unknown format": text(format="no-such-format"),
    "known formats": {"type": "object", "properties": {f: {"type": "string", "format": f} for f in ("uuid", "email")}},
    "twenty long texts": {"type": "object", "properties": {f"f{n}": text(maxLength=200 + n) for n in range(20)}},
    "enormous enum": {"enum": [f"value-{n}" for n in range(900)]},
    "empty enum": {"enum": []},
    "enum of everything": {"enum": [None, True, 1, 1.5, "a", [1], {"a": 1}]},
    "recursive": {"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"},
    "a cycle of references": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "a reference to itself": {"$ref": "#"},
    "a reference to nowhere": {"$ref": "#/$defs/none"},
    "a reference to the web": {"$ref": "https://example.invalid/schema.json"},
    "definitions that double": _bomb(24),
    "31 deep": _nested(30),
    "pattern properties": {"type": "object", "patternProperties": {"^a+$": {"type": "integer"}}},
    "property names": {"type": "object", "propertyNames": {"pattern": "^[a-z]{1,64}$"}},
    "contradictory numbers": {"type": "integer", "minimum": 10, "maximum": 3},
    "enormous numbers": {"type": "integer", "minimum": -(10**300), "maximum": 10**300},
    "a multiple": {"type": "number", "multipleOf": 0.0001},
    "a million items": {"type": "array", "items": {"type": "integer"}, "minItems": 1_000_000},
    "contradictory items": {"type": "array", "minItems": 5, "maxItems": 2},
    "unique items": {"type": "array", "items": {"type": "integer"}, "uniqueItems": True},
    "not": {"not": {"type": "string"}},
    "one of": {"oneOf": [{"type": "string"}, {"type": "integer", "minimum": 3}]},
    "all of contradictory": {"allOf": [{"type": "string"}, {"type": "integer"}]},
    "any of many": {"anyOf": [_numbers(1, required=[f"p{n}"]) for n in range(200)]},
    "if then else": {"if": {"type": "string"}, "then": {"minLength": 3}, "else": {"type": "integer"}},
    "no such type": {"type": "nonsense"},
    "everything false": {"type": "object", "properties": {"a": False}, "required": ["a"]},
    "a title of NUL": {"type": "string", "title": "\x00"},
}
