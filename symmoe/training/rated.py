"""The training data of a scorer: the distinct answers of a pool's experts to validation questions, rated and paired.

No person and no larger model rates anything: ratings come from the known answers and from comparing what the experts
wrote. What cannot be told of an answer is NaN, and the fit skips it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from symmoe.aggregation.extraction import equal, extract
from symmoe.build import Assembly
from symmoe.pipeline import UNWATCHED, Watch
from symmoe.planning.grouping import plan
from symmoe.profiles.marking import as_query, gathered, is_right
from symmoe.routing.facets import SUSPECT_WORDS, language_of
from symmoe.routing.tagging import tag
from symmoe.scoring.heads import Floats
from symmoe.scoring.small import PreferredAnswers, RatedAnswers
from symmoe.scoring.states import HiddenStates
from symmoe.types import Assignment, Candidate, Query, Question, Recruitment

DRAWS = 3
"""How many draws of one expert stand against each other."""
Wanted = Callable[[Candidate, Recruitment], bool]


@dataclass(frozen=True, slots=True)
class Field:
    """Questions with their queries, candidates and recruitments, as parallel sequences.

    The recruitments hold every expert's share for a question, whichever were asked.
    """

    questions: tuple[Question, ...]
    queries: tuple[Query, ...]
    candidates: tuple[tuple[Candidate, ...], ...]
    recruitments: tuple[Recruitment, ...]

    def keep(self, wanted: Callable[[Candidate, Recruitment], bool]) -> Field:
        """The same questions with fewer candidates."""
        rows = zip(self.candidates, self.recruitments, strict=True)
        return replace(self, candidates=tuple(tuple(c for c in row if wanted(c, r)) for row, r in rows))

    def right(self) -> list[list[bool]]:
        """Whether each candidate is right."""
        return [
            [is_right(candidate.text, question) for candidate in row]
            for question, row in zip(self.questions, self.candidates, strict=True)
        ]


def best(count: int, candidate: Candidate, recruitment: Recruitment) -> bool:
    """Whether a candidate's expert is among those that stand best for the question."""
    return candidate.expert in list(recruitment.shares)[:count]


SETTINGS: dict[str, Wanted] = {
    "everyone": lambda c, r: c.slot == 0,
    "three_experts": lambda c, r: c.slot == 0 and best(3, c, r),
    "two_experts_redrawn": lambda c, r: c.slot > 0 and best(2, c, r),
    "one_expert_redrawn": lambda c, r: 0 < c.slot <= DRAWS and best(1, c, r),
    "recruited": lambda c, r: c.slot == 0 and c.expert in {a.expert for a in r.assignments},
}
"""Every expert once; the three that stand best, once; draws of the best two or of the best; symmoe's own recruiting."""


def cut(field: Field) -> dict[str, Field]:
    """The settings for which a field holds candidates to every question."""
    fields = {name: field.keep(wanted) for name, wanted in SETTINGS.items()}
    return {name: each for name, each in fields.items() if all(each.candidates)}


@dataclass(frozen=True, slots=True)
class Drawing:
    """How often experts answer.

    Each answers once under the pool's sampling, which is slot 0. The best `experts` for the question answer `draws`
    times more at `temperature`.
    """

    draws: int = 4
    experts: int = 2
    temperature: float = 1.0
    seed: int = 0


def gather(
    assembly: Assembly,
    questions: Sequence[Question],
    drawing: Drawing,
    path: Path | None = None,
    watch: Watch = UNWATCHED,
) -> Field:
    """The experts' answers: for each question every expert in the pool's order, then those that are asked again.

    With a `path`, answers are kept there as they come, and those already there are not asked for again. Raises
    `PoolError` for a pool without profiles.
    """
    names, queries = assembly.pool.names, [as_query(question, assembly.pool.sampling) for question in questions]
    warm = [replace(q, sampling=replace(q.sampling, temperature=drawing.temperature)) for q in queries]
    recruitments = assembly.recruiter.recruit(
        queries, tag(assembly.tagger, queries), assembly.pool.routing.k, drawing.seed
    )
    first = [Recruitment(q.id, tuple(Assignment(q.id, e, 0) for e in names), {}) for q in queries]
    redraws = [Recruitment(r.query_id, tuple(_further_draws(r, drawing)), {}) for r in recruitments]
    steps = plan(
        [*queries, *warm], [*first, *redraws], assembly.models, seed=drawing.seed, most_tokens=assembly.pool.most_tokens
    )
    known = {
        candidate.assignment: candidate for candidate in gathered(assembly.remembering_executor(path), steps, watch)
    }
    rows = (
        tuple(known[assignment] for assignment in (*once.assignments, *more.assignments))
        for once, more in zip(first, redraws, strict=True)
    )
    return Field(tuple(questions), tuple(queries), tuple(rows), tuple(recruitments))


def _further_draws(recruitment: Recruitment, drawing: Drawing) -> Iterator[Assignment]:
    for expert in list(recruitment.shares)[: drawing.experts]:
        for slot in range(1, drawing.draws + 1):
            yield Assignment(recruitment.query_id, expert, slot)


OBJECTIVES = ("correctness", "format", "brevity", "agreement", "stability", "language")
"""What is rated, in the order of the columns; see `rate`."""
_TOKEN = re.compile(r"\d+|[^\W\d_]+|\S")
CHUNK = 256
LEAST_RATED = 30
"""An objective on which fewer answers are rated, or all are rated alike, is left out."""


def rate(question: Question, candidates: Sequence[Candidate]) -> Floats:
    """Ratings `[n, objectives]` of all answers to one question, each between 0 and 1.

    `correctness`: the answer is right. `format`: how alike are the kinds of tokens in it and in the known answer.
    `brevity`: the known answer's length over its own, at most 1. `agreement`: the share of the other experts whose
    first answer says the same. `stability`: the share of the same expert's other draws that do. `language`: it is in
    the known answer's language, told only of texts of some length.
    """
    answers = [extract(candidate.text, "auto", question.question) for candidate in candidates]
    rows = [
        (
            float(is_right(candidate.text, question)),
            format_likeness(candidate.text, question.answer),
            min(1.0, len(question.answer) / max(len(candidate.text), 1)),
            _share(answers[place], [s for s, c in zip(answers, candidates, strict=True) if _other(c, candidate)]),
            _share(answers[place], [s for s, c in zip(answers, candidates, strict=True) if _redrawn(c, candidate)]),
            _same_language(candidate.text, question.answer),
        )
        for place, candidate in enumerate(candidates)
    ]
    return np.array(rows, dtype=np.float32).reshape(len(candidates), len(OBJECTIVES))


def format_likeness(text: str, wanted: str) -> float:
    """How alike the kinds of tokens in two texts are (Jaccard): JSON, numbers, words by their case, each mark.

    >>> format_likeness("3, 1, 2", "1, 2, 3"), format_likeness("It is 3", "3")
    (1.0, 0.3333333333333333)
    """
    first, second = _kinds(text), _kinds(wanted)
    return len(first & second) / len(first | second) if first | second else 1.0


def _kinds(text: str) -> set[str]:
    try:
        if isinstance(json.loads(text), dict | list):
            return {"json"}
    except (ValueError, RecursionError):
        pass
    return {_kind(token) for token in _TOKEN.findall(text)}


def _kind(token: str) -> str:
    if token.isdecimal():
        return "number"
    if not token[0].isalpha():
        return token
    return "upper" if token.isupper() else "capitalised" if token[0].isupper() else "lower"


def _other(candidate: Candidate, than: Candidate) -> bool:
    return candidate.expert != than.expert and candidate.slot == 0


def _redrawn(candidate: Candidate, of: Candidate) -> bool:
    return candidate.expert == of.expert and candidate.slot != of.slot


def _share(text: str | None, others: Sequence[str | None]) -> float:
    """The share of `others` that say the same; an answer that cannot be read agrees with none."""
    if not others:
        return float("nan")
    return sum(text is not None and other is not None and equal(text, other, "auto") for other in others) / len(others)


def _same_language(text: str, wanted: str) -> float:
    if min(len(text.split()), len(wanted.split())) < SUSPECT_WORDS:
        return float("nan")
    return float(language_of(text) == language_of(wanted))


class KeptStates:
    """Reads states in chunks, each cached in a file; a cached chunk is not read again.

    A chunk is the same however often reading was interrupted, and so are its states. Files are named by what was read
    and by `reader`, which names the model.
    """

    def __init__(
        self, states: HiddenStates, folder: Path, reader: str, tell: Callable[[str], None] = lambda now: None
    ) -> None:
        self._states, self._folder, self._reader, self._tell = states, folder, reader, tell

    def __call__(self, queries: Sequence[Query], candidates: Sequence[Sequence[str]]) -> tuple[Floats, Floats]:
        """Prompt and answer states, a row for each candidate of each query, in order."""
        rows = [(query, text) for query, row in zip(queries, candidates, strict=True) for text in row]
        chunks = []
        for start in range(0, len(rows), CHUNK):
            self._tell(f"{self._reader}: {start} of {len(rows)} answers read")
            chunks.append(self._chunk(rows[start : start + CHUNK]))
        prompts, answers = zip(*chunks, strict=True)
        return np.concatenate(prompts), np.concatenate(answers)

    def _chunk(self, rows: Sequence[tuple[Query, str]]) -> tuple[Floats, Floats]:
        from safetensors.numpy import load_file, save_file

        key = repr((self._reader, [(query.messages, text) for query, text in rows]))
        file = self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.safetensors"
        if file.is_file():
            stored = load_file(file)
            return stored["prompts"], stored["answers"]
        prompts, answers = self._states([query for query, _ in rows], [[text] for _, text in rows])
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        save_file({"prompts": np.ascontiguousarray(prompts), "answers": np.ascontiguousarray(answers)}, partial)
        partial.rename(file)
        return prompts, answers


@dataclass(frozen=True, slots=True, eq=False)
class Material:
    """The `n` distinct answers to all questions: states, ratings `[n, objectives]`, which are right, their questions.

    `of` gives the index of each candidate's answer, if it can be read. There are `asked` questions, including those
    without an answer.
    """

    objectives: tuple[str, ...]
    rated: RatedAnswers
    right: NDArray[np.bool_]
    question: NDArray[np.intp]
    of: Mapping[Assignment, int]
    asked: int

    def within(self, questions: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Which answers are to some of the questions, `[n]`."""
        return np.asarray(questions[self.question])

    def take(self, chosen: NDArray[np.bool_]) -> RatedAnswers:
        """Some of the rated answers."""
        r = self.rated
        return RatedAnswers(r.prompts[chosen], r.answers[chosen], r.ratings[chosen], r.lengths[chosen])

    def pairs(self, questions: NDArray[np.bool_], most: int, seed: int) -> PreferredAnswers:
        """Pairs of a right and a wrong answer to the same question, at most `most` for each question."""
        rng = np.random.default_rng(seed)
        better, worse = [np.empty(0, dtype=np.intp)], [np.empty(0, dtype=np.intp)]
        for place in np.flatnonzero(questions):
            mask = self.question == place
            first, second = np.meshgrid(np.flatnonzero(mask & self.right), np.flatnonzero(mask & ~self.right))
            sample = rng.permutation(first.size)[:most]
            better.append(first.ravel()[sample])
            worse.append(second.ravel()[sample])
        chosen, rejected = np.concatenate(better), np.concatenate(worse)
        answers = self.rated.answers
        return PreferredAnswers(self.rated.prompts[chosen], answers[chosen], answers[rejected])


def material(field: Field, states: HiddenStates) -> Material:
    """Read and rate the answers in a field. Equal texts are read once, and their ratings averaged."""
    texts = [list(dict.fromkeys(c.text for c in row if c.text.strip())) for row in field.candidates]
    rows = list(zip(field.questions, field.candidates, texts, strict=True))
    prompts, answers = states(field.queries, texts)
    ratings = np.concatenate([_ratings(*row) for row in rows])
    lengths = np.array([len(text) for row in texts for text in row], dtype=np.float32)
    question = np.repeat(np.arange(len(texts)), [len(row) for row in texts])
    readable = np.asarray(np.isfinite(np.hstack([prompts, answers])).all(axis=1))
    columns = [place for place in range(len(OBJECTIVES)) if _tells(ratings[readable, place])]
    rated = RatedAnswers(prompts[readable], answers[readable], ratings[readable][:, columns], lengths[readable])
    right = ratings[readable, OBJECTIVES.index("correctness")] > 0.5
    names = tuple(OBJECTIVES[place] for place in columns)
    return Material(names, rated, right, question[readable], _places(field, texts, readable), len(texts))


def _ratings(question: Question, candidates: Sequence[Candidate], texts: Sequence[str]) -> Floats:
    """Ratings `[len(texts), objectives]`; what is NaN for some who wrote a text is the mean of the others."""
    ratings = rate(question, candidates)
    rows = [ratings[[place for place, c in enumerate(candidates) if c.text == text]] for text in texts]
    known = [np.isfinite(row) for row in rows]
    sums = [np.where(mask, row, 0.0).sum(axis=0) for row, mask in zip(rows, known, strict=True)]
    counts = [np.where(mask.any(axis=0), mask.sum(axis=0), np.nan) for mask in known]
    return np.array([s / n for s, n in zip(sums, counts, strict=True)], dtype=np.float32).reshape(-1, len(OBJECTIVES))


def _tells(column: Floats) -> bool:
    finite = column[np.isfinite(column)]
    return len(finite) >= LEAST_RATED and float(np.ptp(finite)) > 0


def _places(field: Field, texts: Sequence[Sequence[str]], readable: NDArray[np.bool_]) -> dict[Assignment, int]:
    place = np.cumsum(readable) - 1
    starts = np.cumsum([0, *map(len, texts)])
    places: dict[Assignment, int] = {}
    for start, known, row in zip(starts, texts, field.candidates, strict=False):
        for candidate in row:
            at = start + known.index(candidate.text) if candidate.text in known else None
            if at is not None and readable[at]:
                places[candidate.assignment] = int(place[at])
    return places
