"""Facets of a question that its text shows: its language, and the format of answer it asks for. Both are skills."""

from __future__ import annotations

import re
from functools import cache
from itertools import islice
from typing import Any

LANGUAGES = {
    "ar": "arabic", "bg": "bulgarian", "bn": "bengali", "cs": "czech", "da": "danish", "de": "german", "el": "greek",
    "en": "english", "es": "spanish", "et": "estonian", "fa": "persian", "fi": "finnish", "fr": "french",
    "he": "hebrew", "hi": "hindi", "hr": "croatian", "hu": "hungarian", "id": "indonesian", "it": "italian",
    "ja": "japanese", "ko": "korean", "lt": "lithuanian", "lv": "latvian", "nl": "dutch", "no": "norwegian",
    "pl": "polish", "pt": "portuguese", "ro": "romanian", "ru": "russian", "sk": "slovak", "sl": "slovene",
    "sv": "swedish", "sw": "swahili", "ta": "tamil", "th": "thai", "tr": "turkish", "uk": "ukrainian", "ur": "urdu",
    "vi": "vietnamese", "zh": "chinese",
}  # fmt: skip
FORMATS = ("multiple choice", "code", "structured data", "yes or no", "number", "open answer")
SUSPECT_WORDS = 8
"""Below this many words of Latin letters a language cannot be told, and English is taken."""

_READ = 2000
# All but the first are matched against the text in lower case: ignoring case costs three times as much
_OPTION = re.compile(r"(?:^|[\s:;])\(?([A-J])[.):、．](?=\s|[^\x00-\x7f]|\w)")
_Told = tuple[tuple[str, ...], re.Pattern[str]]
"""A pattern, and texts of which it wants one: to look for those first takes a tenth of the time."""
_CODE: tuple[_Told, ...] = (
    (
        ("def", "class", "import", "function", "public", "#include", "select", "assert", "```", ">>> "),
        re.compile(
            r"^\s*(def|class|import|from \w+ import|function|public|#include|select|assert)\b|```|^\s*>>> ",
            re.MULTILINE,
        ),
    ),
    (
        ("write", "implement", "complete", "create", "define", "fix", "debug", "refactor"),
        re.compile(
            r"\b(write|implement|complete|create|define|fix|debug|refactor)\b[^.?!\n]{0,50}"
            r"\b(function|program|script|method|class|query|code|python|java|javascript|sql)\b"
        ),
    ),
)
_DATA: tuple[_Told, ...] = (
    (("json", "yaml", "xml", "csv", "markdown"), re.compile(r"\b(json|yaml|xml|csv|markdown table)\b")),
)
_YES_NO: tuple[_Told, ...] = (
    (
        ("yes or no", "true or false", "does it ", "answer "),
        re.compile(r"\b(yes or no|true or false|does it (logically )?follow|answer (yes|no|true|false))\b"),
    ),
    (
        ("?",),
        re.compile(r"^(is|are|was|were|does|do|did|can|could|will|has|have) [^?\n]{1,200}\?\s*$"),
    ),
)
_QUANTITY: tuple[_Told, ...] = (
    (
        ("how ", "calculate", "compute", "evaluate", "simplify", "solve for", "what percent", "what fraction"),
        re.compile(
            r"\bhow (many|much|old|long|far|tall|fast|often)\b|\b(calculate|compute|evaluate|simplify)\b|"
            r"\bsolve for\b|\bwhat (percent(age)?|fraction)\b"
        ),
    ),
    (tuple("-+*/^×÷"), re.compile(r"\d\s*[-+*/^×÷]\s*\d")),
    (
        ("in dollars", "in cents", "in percent", "in met", "in feet", "in hours", "in minutes"),
        re.compile(r"\bin (dollars|cents|percent|meters|metres|feet|hours|minutes)\b"),
    ),
    (("多少", "几"), re.compile("多少|几(个|只|人|天|年)")),
)
_MATHS = re.compile(
    r"\b(sum|product|quotient|remainder|factor|multiple|divisor|integers?|prime|fraction|ratio|average|mean|median|"
    r"perimeter|area|volume|equation|digits?|probability|greatest|least|total|amount|price|cost|bill|balance|weight|"
    r"weigh|height|length|distance|speed|rate|mass|age|difference|number of|value)\b",
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?!answer:)")
_CHOOSES: tuple[_Told, ...] = (
    (
        ("which", "most likely", "best", "statement", "method", "reason"),
        re.compile(r"\b(which|most likely|best|statement|method|reason)\b"),
    ),
)
_NUMERAL = re.compile(r"\d")
_LATEX = re.compile(r"\$[^$]+\$|\\\(|\\frac|\\sqrt")
_ENGLISH = re.compile(r"\b(?:the|of|is|are|and|what|which|how|that|with|this|does|for|was|be|you)\b")
_ASKS = re.compile(r"\b(what|how|find|determine|express|calculate|compute|evaluate|simplify|solve)\b")


def facets_of(text: str) -> tuple[str, ...]:
    """The facets of a question, most specific first: format and language together, format, language.

    Their names carry a colon, which no topic's name does.

    >>> facets_of("How many days are in 3 weeks?")
    ('format: number in english', 'format: number', 'language: english')
    """
    form = format_of(text)
    language = "english" if form == "code" and text.isascii() else language_of(text)
    return (f"format: {form} in {language}", f"format: {form}", f"language: {language}")


def parent_of(facet: str) -> str:
    """The facet that `facet` is a special case of, or `""`: a format in one language belongs to that format."""
    form, joined, _ = facet.rpartition(" in ")
    return form if joined and facet.startswith("format: ") else ""


def is_format(facet: str) -> bool:
    """Whether a skill is an answer format, in any or no particular language."""
    return facet.removeprefix("format: ") in FORMATS and facet.startswith("format: ")


def format_of(text: str) -> str:
    """Which of `FORMATS` a question asks for, judged by the options, code or words of quantity in its text."""
    text = text[-_READ:]
    if "A" in text and "B" in text:
        letters = _OPTION.findall(text)
        if "A" in letters and "B" in letters:
            return "multiple choice"
    text = text.lower()
    for form, patterns in _BY_PATTERN.items():
        if _shows(text, patterns):
            return form
    return "number" if _is_quantity(text) else "open answer"


def _shows(text: str, patterns: tuple[_Told, ...]) -> bool:
    for wanted, pattern in patterns:
        for word in wanted:  # generators would take half of the time of a short text
            if word in text:
                if pattern.search(text):
                    return True
                break
    return False


def language_of(text: str) -> str:
    """The language of a question; `english` where the text is too short to decide."""
    text = text[:_READ]
    if text.isascii() and len(list(islice(_ENGLISH.finditer(text.lower()), 3))) == 3:
        return "english"
    letters = [character for character in text if character.isalpha()]
    plain = sum(character < "\u0250" for character in letters)
    if not letters:
        return "english"
    if plain > 0.8 * len(letters) and len(text.split()) < SUSPECT_WORDS:
        return "english"
    code, _ = _identifier().classify(text)
    return LANGUAGES.get(code, "english")


def _is_quantity(text: str) -> bool:
    """Whether the sentence that asks, the last one with a word of asking, asks for a number."""
    sentences = _SENTENCE.split(text) if any(mark in text for mark in ".!?") else [text]
    asking = next((s for s in reversed(sentences) if _ASKS.search(s)), sentences[-1])
    if _shows(asking, _CHOOSES):
        return False
    if _shows(asking, _QUANTITY):
        return True
    return bool(_ASKS.search(asking) and _NUMERAL.search(text) and (_LATEX.search(text) or _MATHS.search(asking)))


_BY_PATTERN = {"code": _CODE, "structured data": _DATA, "yes or no": _YES_NO}


@cache
def _identifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
    identifier.set_languages(list(LANGUAGES))
    return identifier
