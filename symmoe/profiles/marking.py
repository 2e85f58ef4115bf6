"""Grades experts on questions with known answers, with confidence intervals.

A right answer counts however it is worded: "391", "The product of 17 and 23 is 391." and "So 17 · 23 = **391**" are one
answer. The right words do not count under a negation, among alternatives, or after another answer.
"""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from symmoe.aggregation.extraction import (
    canonical_number,
    equal,
    extract,
    normalise,
    numbers_in,
    stated,
    visible,
    without_reasoning,
)
from symmoe.config import SamplingConfig
from symmoe.pipeline import UNWATCHED, Watch
from symmoe.planning.grouping import plan
from symmoe.protocols import Executor
from symmoe.questions.families import boxed
from symmoe.types import (
    AnswerKind,
    Assignment,
    Candidate,
    Load,
    Message,
    Plan,
    Query,
    Question,
    Recruitment,
    Refusal,
    Sampling,
    Scorer,
    Trace,
)

_KINDS: dict[Scorer, AnswerKind] = {
    "exact": "text",
    "number": "number",
    "choice": "choice",
    "math": "math",
    "program": "text",
}
_SENTENCE_END = re.compile(r"(?<=[.!?:])\s+|\n+")
_MARKS = re.compile(r"[*`\"“”„«»]|(?<!\w)'|'(?!\w)")
_DOUBT = re.compile(
    r"\b(?:not|never|neither|nor|or|unlike|instead|rather|wrong|wrongly|mistaken\w*|confuse[ds]?|formerly|maybe|"
    r"perhaps|might|unsure|some (?:say|think)|many (?:say|think|believe))\b|n't\b",
    re.IGNORECASE,
)
_LISTED = re.compile(r"(?:[,;/]|\band)\s*$")
_WORD = re.compile(r"\w+")
_WORD_BEFORE, _WORD_AFTER = re.compile(r"([^\W\d_]+)\s+$"), re.compile(r"^\s+([^\W\d_]+)")
_LINKS = frozenset("a an the is are was were be of in as by to for equals says means gives called word so it".split())
_FENCED = re.compile(r"```[ \t]*(\w*)[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_OBJECT = re.compile(r"\{[^{}]*\}")
_CHOICES = re.compile(r"(?:^|\s)\(?([A-J])[).:]\s*(.+?)(?=\s+\(?[A-J][).:]\s|$)")
_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(_NUMBER_WORDS)})\b(?!-)", re.IGNORECASE)
_LETTERED = re.compile(r"\W*(?:(?:option|answer|choice)\W+)?[A-J](?:\W|$)", re.IGNORECASE)
_CURT, _SHORT = 4, 2
SECONDS, MEMORY = 5, 1 << 30
"""What a program that is run for its tests may take: seconds of a processor, bytes of memory."""

# what it is given is run with no files to write, no environment and no other modules than Python's own
_RUNNER = """
import resource, sys
seconds, memory = map(int, sys.argv[1:])
for what, most in ((resource.RLIMIT_CPU, seconds), (resource.RLIMIT_AS, memory), (resource.RLIMIT_FSIZE, 0),
                   (resource.RLIMIT_NPROC, 0), (resource.RLIMIT_NOFILE, 16), (resource.RLIMIT_CORE, 0)):
    resource.setrlimit(what, (most, most))
program, tests = sys.stdin.read().split("\\0")
space = {"__name__": "program"}
exec(compile(program, "program", "exec"), space)
exec(compile(tests, "tests", "exec"), space)
sys.__stdout__.write("\\0passed")
"""


def is_right(text: str, question: Question) -> bool:
    """Whether a text gives a question's known answer, or another accepted one, by the question's scorer.

    `exact`: the answer's words, alone or stated in a sentence. `number`: its value, stated. `choice`: the option's
    letter or words. `math`: equal in value. `program`: the code in the text passes the tests that are the answer.
    """
    if question.scorer == "program":
        return passes(program_in(text), question.answer)
    visible_text = without_reasoning(visible(text))
    reads = {"exact": _says_words, "number": _says_number, "choice": _says_choice, "math": _says_value}
    return any(
        reads[question.scorer](visible_text, answer, question) for answer in (question.answer, *question.accepted)
    )


def kind_of(question: Question) -> AnswerKind:
    """How answers to a suite's question are read."""
    return _KINDS[question.scorer]


def program_in(text: str) -> str:
    """The code in a text: its fenced blocks that define something in Python, or all of it if there are none."""
    answer = without_reasoning(text)
    python = [block for name, block in _FENCED.findall(answer) if name.casefold() in ("", "py", "python", "python3")]
    return "\n".join(block for block in python if "def " in block or "class " in block) or answer


def passes(program: str, tests: str) -> bool:
    """Whether a program passes tests, Python statements, in a process of its own limited to `SECONDS` and `MEMORY`.

    The process guards against crashes, endless loops and writing files; it is no sandbox for malicious code.
    """
    try:
        ast.parse(program)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # most of what is no program needs no process
        return False
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _RUNNER, str(SECONDS), str(MEMORY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={},
            start_new_session=True,
        )
        try:
            written = f"{program.replace(chr(0), '')}\0{tests}".encode("utf-8", "replace")
            stdout, _ = process.communicate(written, timeout=4 * SECONDS)
        except subprocess.TimeoutExpired:
            return False
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    return process.returncode == 0 and stdout.endswith(b"\0passed")


def _says_value(text: str, answer: str, _: Question) -> bool:
    value, wanted = extract(text, "math"), extract(answer, "math")
    return value is not None and wanted is not None and equal(value, wanted, "math")


def _says_choice(text: str, answer: str, question: Question) -> bool:
    """The letter, or where none is named as a letter is, the only option whose words are said."""
    wanted, choice = extract(answer, "choice"), extract(text, "choice")
    options = {letter: words.strip(" .") for letter, words in _CHOICES.findall(question.question)}
    if options and not (boxed(text) or stated(text) or _LETTERED.match(text)):
        named = {letter for letter, words in options.items() if _says_words(text, words, question)}
        if len(named) == 1:
            return named == {wanted}
    return choice is not None and choice == wanted


def _says_number(text: str, answer: str, question: Question) -> bool:
    """The last number of what is stated, or the only one there that the question does not name itself."""
    wanted = _value(answer)
    if not numbers_in(text):
        text = _NUMBER_WORD.sub(lambda word: str(_NUMBER_WORDS.index(word[0].casefold())), text)
    claim = boxed(text) or stated(text) or next(filter(numbers_in, reversed(_sentences(text))), "")
    numbers = numbers_in(claim)
    if wanted is None or not numbers:
        return False
    if _DOUBT.search(claim.rpartition(numbers[-1])[0].rpartition(",")[2]):
        return False
    if _value(numbers[-1]) == wanted:
        return True
    question_values = {_value(number) for number in numbers_in(question.question)}
    return {value for number in numbers if (value := _value(number)) not in question_values} == {wanted}


def _value(number: str) -> Fraction | None:
    """A number in whatever spelling as its value, so that 0.3 and 3/10 are one."""
    read = canonical_number(number) or extract(number, "number")
    with suppress(ValueError, TypeError, ZeroDivisionError, OverflowError):
        return Fraction(read or "") if len(read or "") < 60 else None
    return None


def _says_words(text: str, answer: str, question: Question) -> bool:
    """Nothing but the answer; or the answer in what is stated, else in the first or the last sentence."""
    wanted = normalise(_MARKS.sub("", answer))
    claim = boxed(text) or text
    if normalise(_MARKS.sub("", claim)) == wanted or _same_record(text, answer):
        return True
    statement = stated(text)
    if statement is not None:
        return _in_claim(statement, answer, question)
    sentences = _sentences(text)
    opening = sentences[0]
    if len(opening.split()) <= _CURT and ":" not in opening:  # it is an answer by itself
        return _in_claim(opening, answer, question)
    lists = [sentence for sentence in sentences if sentence.count(",") >= answer.count(",") > 0]
    return any(_in_claim(sentence, answer, question) for sentence in (opening, sentences[-1], *lists[-1:]))


def _sentences(text: str) -> list[str]:
    """Sentences and lines; one that only announces what comes is joined with that."""
    parts = [part for part in _SENTENCE_END.split(text.strip()) if part.strip(" *`#-_")]
    joined: list[str] = []
    for part in parts:
        if joined and joined[-1].endswith(":"):
            joined[-1] = f"{joined[-1]} {part}"
        else:
            joined.append(part)
    return joined or [text]


def _in_claim(claim: str, answer: str, question: Question) -> bool:
    """Whether a sentence gives the answer: as whole words, without doubt before them, and not as one of several."""
    plain, wanted = " ".join(_MARKS.sub("", claim).split()), " ".join(_MARKS.sub("", answer).split()).rstrip(".")
    exactly = len(wanted) <= _SHORT  # K, Na and I are found in too many words
    found = re.compile(rf"(?<![\w-]){re.escape(wanted)}(?![\w-])", 0 if exactly else re.IGNORECASE)
    places = list(found.finditer(plain))
    if exactly:
        places = [place for place in places if not plain[place.end() :].strip(" .!)")]
    return any(_is_the_answer(plain[: place.start()], plain[place.end() :], wanted, question) for place in places)


def _is_the_answer(before: str, after: str, wanted: str, question: Question) -> bool:
    if "," in wanted and (after.lstrip().startswith(",") or before.rstrip().endswith(",")):
        return False  # a part of a longer list
    asked = question.question.casefold()
    if _DOUBT.search(before) and not _DOUBT.search(asked):
        return False
    if re.match(r"\s*(?:,[^,.]{1,30})*,?\s*(?:or|and/or)\b", after):
        return False
    if any(letter.isdigit() for letter in asked):  # in number words the right word may be a part of a wrong number
        beside = {*_WORD_BEFORE.findall(before.casefold()), *_WORD_AFTER.findall(after.casefold())}
        if beside - _LINKS - set(_WORD.findall(asked)):
            return False
    listed = _LISTED.search(before)
    return not listed or before[: listed.start()].casefold().split()[-1:] in [[word] for word in _WORD.findall(asked)]


def _same_record(text: str, answer: str) -> bool:
    """Whether the answer is a JSON object and the only one in the text is equal to it."""
    with suppress(ValueError):
        wanted = json.loads(answer) if answer.startswith("{") else None
        objects = _OBJECT.findall(text)
        return wanted is not None and len(objects) == 1 and json.loads(objects[0]) == wanted
    return False


Values = Sequence[float] | NDArray[np.float64]
RESAMPLES = 10_000
_ROWS = 500


def earned(questions: Sequence[Question], results: Sequence[Trace | Refusal]) -> list[float]:
    """1 for each question whose answer is right, 0 for a wrong answer and for a refusal."""
    return [
        float(isinstance(result, Trace) and is_right(result.answer.text, question))
        for question, result in zip(questions, results, strict=True)
    ]


def as_query(question: Question, sampling: SamplingConfig) -> Query:
    """The question as a user would ask it, without its answer and scorer."""
    options = Sampling(sampling.max_tokens, sampling.temperature, sampling.top_p)
    return Query(question.id, (Message("user", question.question),), options)


@dataclass(frozen=True, slots=True)
class Matrix:
    """Every expert's text for question `i`, `texts[expert][i]`, and whether it is right, `right[expert][i]`.

    `spent` are completion tokens; `failed[expert][i]` says that asking gave nothing.
    """

    questions: tuple[Question, ...]
    right: Mapping[str, tuple[bool, ...]]
    seconds: float
    spent: Mapping[str, int]
    texts: Mapping[str, tuple[str, ...]]
    failed: Mapping[str, tuple[bool, ...]] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """The completion tokens of all experts together."""
        return sum(self.spent.values())

    def accuracy(self, expert: str) -> float:
        """The fraction that one expert answered rightly."""
        return sum(self.right[expert]) / len(self.questions)

    @property
    def best_single(self) -> str:
        """The most accurate expert *on these questions*: a baseline chosen in hindsight, and so the hardest to beat."""
        return max(self.right, key=self.accuracy)

    @property
    def any_right(self) -> tuple[bool, ...]:
        """Whether at least one expert was right, for each question: the oracle."""
        return tuple(any(column) for column in zip(*self.right.values(), strict=True))


def run_matrix(
    executor: Executor,
    experts: Sequence[str],
    models: Mapping[str, str],
    questions: Sequence[Question],
    sampling: SamplingConfig,
    watch: Watch = UNWATCHED,
    most_tokens: Mapping[str, int] | None = None,
    known: Sequence[Candidate] = (),
) -> Matrix:
    """Ask `experts` every question, loading each once. `most_tokens` limits what some experts write.

    `known` are candidates for the same questions and sampling, which are reused.
    """
    began = time.perf_counter()
    queries = [as_query(question, sampling) for question in questions]
    everyone = [Recruitment(q.id, tuple(Assignment(q.id, e, 0) for e in experts), {}) for q in queries]
    done = {Assignment(each.query_id, each.expert, 0): each for each in known if each.slot == 0}
    steps = plan(queries, everyone, models, done, most_tokens=most_tokens)
    candidates = {(each.expert, each.query_id): each for each in (*done.values(), *gathered(executor, steps, watch))}
    texts = {e: tuple(candidates[e, q.id].text for q in questions) for e in experts}
    failed = {e: tuple(candidates[e, q.id].finish_reason == "error" for q in questions) for e in experts}
    right = {e: tuple(is_right(t, q) for t, q in zip(texts[e], questions, strict=True)) for e in experts}
    spent = dict.fromkeys(experts, 0)
    for candidate in candidates.values():
        spent[candidate.expert] += 0 if candidate.shared else candidate.completion_tokens
    return Matrix(tuple(questions), right, time.perf_counter() - began, spent, texts, failed)


def gathered(executor: Executor, steps: Plan, watch: Watch) -> list[Candidate]:
    """Every candidate of a plan, run with a watch."""
    candidates: list[Candidate] = []
    watch.planned(steps)
    for event in executor.run(steps):
        if isinstance(event, Load):
            watch.loaded(event)
            continue
        watch.candidates(event)
        candidates += event
    return candidates


def interval95(resampled: NDArray[np.float64]) -> list[float]:
    """The central 95 % interval of bootstrap resamples, rounded to hundredths."""
    return [round(float(bound), 2) for bound in np.quantile(resampled, (0.025, 0.975))]


def estimate(values: Values, seed: int) -> dict[str, Any]:
    """The mean of `values` (0..1, one per question) in percent, and its 95 % interval."""
    return _told(100 * np.asarray(values, dtype=np.float64), seed)


def paired(first: Values, second: Values, seed: int) -> dict[str, Any]:
    """How much better `first` is than `second` on the same questions, in points, and the 95 % interval.

    Questions are resampled for both together, so that difficulty shared by both cancels out.
    """
    return _told(100 * (np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)), seed)


def _told(values: NDArray[np.float64], seed: int) -> dict[str, Any]:
    return {"points": round(float(values.mean()), 2), "ci95": interval95(_means(values, seed))}


def _means(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The means of `RESAMPLES` resamples; in blocks, since ten thousand questions would else take gigabytes."""
    rng = np.random.default_rng(seed)
    shapes = [min(_ROWS, RESAMPLES - begin) for begin in range(0, RESAMPLES, _ROWS)]
    return np.concatenate([values[rng.integers(0, len(values), (rows, len(values)))].mean(axis=1) for rows in shapes])
