"""Checks a batch before it runs, and its output afterwards.

Before: its lines, errors, tokens of prompts, experts and time. Afterwards: whether every line is answered exactly once
and in order; and how many answers are right, by skill and by the expert whose text they are.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np
from xxhash import xxh3_64_intdigest

from symmoe.batch.lines import BadLine, GoodLine, KnownLine, Lines, SeenIds, drawn
from symmoe.batch.output import OWN
from symmoe.batch.windows import Window
from symmoe.build import Assembly
from symmoe.errors import RequestError
from symmoe.planning.costs import CostModel
from symmoe.profiles.marking import is_right
from symmoe.questions.suites import known_question
from symmoe.rows.reading import Rows
from symmoe.rows.shapes import Reading
from symmoe.types import Prompt, Query, Refusal


@dataclass(slots=True)
class Accuracy:
    """Counts of right answers among those whose reference is known; `unknown` rows have none, or were not answered."""

    right: int = 0
    graded: int = 0
    unknown: int = 0
    by_skill: dict[str, list[int]] = field(default_factory=dict)
    by_expert: dict[str, list[int]] = field(default_factory=dict)

    def add(self, right: bool, skill: str, expert: str) -> None:
        """Count one more graded answer."""
        self.right += right
        self.graded += 1
        for groups, name in ((self.by_skill, skill), (self.by_expert, expert)):
            tally = groups.setdefault(name or "none", [0, 0])
            tally[0] += right
            tally[1] += 1

    @property
    def report(self) -> dict[str, Any]:
        """The counts as plain JSON types: right answers and answers of each group."""
        return {
            "right": self.right,
            "graded": self.graded,
            "unknown": self.unknown,
            "by_skill": self.by_skill,
            "by_expert": self.by_expert,
        }


def accuracy(output: Path, reading: Reading) -> Accuracy:
    """Grade the rows of an output that have columns of their own; `reading` says where the references are."""
    result = Accuracy()
    for row in Rows([output]):
        graded = _graded(row.row, reading) if isinstance(row.row, dict) else None
        if graded is None:
            result.unknown += 1
        else:
            result.add(graded, row.row.get(f"{OWN}skill") or "", row.row.get(f"{OWN}expert") or "")
    return result


def _graded(row: Mapping[str, Any], reading: Reading) -> bool | None:
    answer_column = f"{OWN}answer" if f"{OWN}answer" in row else "answer"
    answer = _first(row.get(answer_column), row.get("n"))
    if not isinstance(answer, str) or not row.get(f"{OWN}expert"):
        return None
    columns = {name: value for name, value in row.items() if name != answer_column and not name.startswith(OWN)}
    try:
        question = known_question(columns, reading, "")
    except RequestError:
        return None
    return None if question is None else is_right(answer, question)


def _first(answer: Any, n: Any) -> Any:
    """The first of `n` choices, which a table holds as JSON; else what was said."""
    if str(n) in ("None", "", "1"):
        return answer
    try:
        choices = json.loads(answer) if isinstance(answer, str) else answer
    except ValueError:
        return answer
    return choices[0] if isinstance(choices, list) and str(len(choices)) == str(n) else answer


_EXAMPLES = 5
_LINE, _ID = "line", "id"


@dataclass(slots=True)
class Verification:
    """The findings. `examples` name a few of each kind: lines by their number in the input, rows by theirs."""

    lines: int = 0
    rows: int = 0
    answered: int = 0
    failed: int = 0
    missing: int = 0
    twice: int = 0
    strange: int = 0
    moved: int = 0
    examples: dict[str, list[int]] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        """Whether every line has its row, in order."""
        return not (self.missing or self.twice or self.strange or self.moved)

    def note(self, kind: str, number: int) -> None:
        """Count one more finding of a kind."""
        setattr(self, kind, getattr(self, kind) + 1)
        if len(examples := self.examples.setdefault(kind, [])) < _EXAMPLES:
            examples.append(number)


def verify(
    sources: Sequence[str | Path],
    output: Path,
    reading: Reading = Reading(),  # noqa: B008 - frozen
    limit: int | None = None,
    share: float = 1.0,
) -> Verification:
    """Compare files of questions with an output, from the files alone, in 16 bytes of memory a line.

    At most `limit` questions and a `share` of them count, as in `LineReader.read`. A row names its line by id, or by
    number if the line could not be asked. Raises `InputError` for a file that cannot be opened.
    """
    result = Verification()
    names, numbers = array("Q"), array("Q")
    seen: set[int] = set()
    for number, name in islice(_lines(sources, reading, share), limit):
        names.append(name)
        numbers.append(number)
    result.lines = len(names)
    place = 0
    late: dict[int, int] = {}
    for row, (name, line, answered) in enumerate(_rows(output), 1):
        result.rows += 1
        result.answered += answered
        result.failed += not answered
        if place < len(names) and (line == numbers[place] if line else name == names[place]):
            place += 1
            continue
        late[row] = line or name
    if late or place < len(names):
        _account(result, names, numbers, output, seen)
    return result


def _account(found: Verification, names: array[int], numbers: array[int], output: Path, seen: set[int]) -> None:
    """What is wrong, where the rows are not simply the lines."""
    by_name: dict[int, int] = {}
    by_number = {number: place for place, number in enumerate(numbers)}
    for place, name in enumerate(names):
        by_name.setdefault(name, place)
    last = -1
    for row, (name, line, _) in enumerate(_rows(output), 1):
        where = by_number.get(line) if line else by_name.get(name)
        if where is None:
            found.note("strange", row)
        elif where in seen:
            found.note("twice", row)
        else:
            seen.add(where)
            if where < last:
                found.note("moved", row)
            last = max(last, where)
    for place, number in enumerate(numbers):
        if place not in seen:
            found.note("missing", number)


def _lines(sources: Sequence[str | Path], reading: Reading, share: float) -> Iterator[tuple[int, int]]:
    """Number of each line of an input that is in a share of it, and what stands for its id."""
    with closing(Rows(sources)) as rows:
        for row in rows:
            if not drawn(row.digest, share):
                continue
            number, ident = row.place or row.number, _ident(row.row, reading)
            yield number, _name(ident if ident is not None else number)


def _ident(row: Any, reading: Reading) -> Any:
    """The id of a row; None where it has none that can be read."""
    if not isinstance(row, dict):
        return None
    if "custom_id" in row:
        return row["custom_id"]
    try:
        return reading.ident(row)
    except RequestError:
        return None


def _rows(path: Path) -> Iterator[tuple[int, int, bool]]:
    """What stands for the id of each row of an output, or the number of its line, and whether it is an answer."""
    for each in Rows([path]):
        row = each.row
        try:
            if "symmoe_id" in row:
                line, error = row["symmoe_line"] or 0, row["symmoe_error_code"] or None
                yield _name(row["symmoe_id"]), int(line), error is None
            elif "result" in row:
                yield _name(row["custom_id"]), 0, row["result"]["type"] == "succeeded"
            else:
                error, response, ident = row["error"], row["response"], row["custom_id"]
                line = 0 if ident is not None else int(error["line"])
                yield _name(ident), line, error is None and response["status_code"] == 200
        except (ValueError, TypeError, KeyError):
            yield 0, 0, False


def _name(ident: object) -> int:
    return xxh3_64_intdigest(str(ident).encode("utf-8", "surrogatepass")) if ident is not None else 0


DRAWN = 500
"""Lines of which it is worked out who would be asked, and how many tokens their prompts have."""
_LONG = 2000
_TEMPLATE_TOKENS = 256
_STEP = 2000


@dataclass(slots=True)
class Cause:
    """Why lines cannot be asked: how many, and the first of them."""

    count: int
    line: int
    message: str


@dataclass(slots=True)
class Seen:
    """What was found by reading every line. `repeated` counts prompts equal to an earlier line's, word for word.

    `asked` counts queries: choices and turns. `drawn` is a uniform sample of the lines that can be asked; `long` are
    the first of `longer` lines whose prompts may not fit `window` tokens, judging by their bytes.
    """

    window: int
    lines: int = 0
    good: int = 0
    asked: int = 0
    repeated: int = 0
    longer: int = 0
    shapes: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    causes: dict[str, Cause] = field(default_factory=dict)
    drawn: list[GoodLine] = field(default_factory=list)
    long: list[GoodLine] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """How many lines cannot be asked."""
        return self.lines - self.good


def look(lines: Lines, window: int, seed: int, tell: Callable[[int], None] = lambda count: None) -> Seen:
    """Read every line, in memory that grows by only 18 bytes a line. `tell` is called with how many were read."""
    seen, prompts, rng = Seen(window), SeenIds(), Random(seed)
    for line in lines:
        seen.lines += 1
        if seen.lines % _STEP == 0:
            tell(seen.lines)
        if isinstance(line, BadLine):
            cause = seen.causes.setdefault(line.code, Cause(0, line.number, line.message))
            cause.count += 1
        elif not isinstance(line, KnownLine):
            _take(seen, line, prompts, rng)
    tell(seen.lines)
    return seen


def _take(seen: Seen, line: GoodLine, prompts: SeenIds, rng: Random) -> None:
    seen.good += 1
    seen.asked += len(line.queries) + len(line.later)
    seen.shapes[line.shape or line.door] += 1
    seen.ignored.update(line.ignored)
    first = line.queries[0]
    words = "\x1f".join(turn.content for turn in first.messages) if len(first.messages) > 1 else first.text
    written = words.encode()
    if prompts.note(xxh3_64_intdigest(written) or 1, seen.good) != seen.good:
        seen.repeated += 1
    if len(written) + _TEMPLATE_TOKENS >= seen.window:  # a token has a byte at least
        seen.longer += 1
        if len(seen.long) < _LONG:
            seen.long.append(line)
    if len(seen.drawn) < DRAWN:
        seen.drawn.append(line)
    elif (place := rng.randrange(seen.good)) < DRAWN:
        seen.drawn[place] = line


class Tokenizer(Protocol):
    """Counts the tokens of a prompt as an expert's model does."""

    def prompt(self, query: Query) -> Prompt | Refusal:
        """The prompt's tokens, or why it does not fit the window."""
        ...


@dataclass(frozen=True, slots=True)
class Fit:
    """Tokens of prompts by one model: the median, the 99th percentile and the longest of the sample.

    `too_long` lines leave no room for an answer in the window; with `exact` all were counted, otherwise it is
    extrapolated from the first of the long ones.
    """

    median: int
    most: int
    longest: int
    too_long: int
    exact: bool


def fit(seen: Seen, tokenizer: Tokenizer) -> Fit:
    """How the lines' prompts fit a model's window."""
    prompts = [tokenizer.prompt(line.queries[0]) for line in seen.drawn]
    counts = [len(prompt.ids) for prompt in prompts if isinstance(prompt, Prompt)] or [0]
    long_count = sum(_too_long(tokenizer.prompt(line.queries[0])) for line in seen.long)
    whole = len(seen.long) == seen.longer
    scaled = long_count if whole else round(long_count / len(seen.long) * seen.longer)
    middle, most = np.percentile(counts, [50, 99])
    return Fit(round(middle), round(most), max(counts), scaled, whole)


def _too_long(prompt: Prompt | Refusal) -> bool:
    return isinstance(prompt, Refusal) and prompt.code == "context_length_exceeded"


@dataclass(frozen=True, slots=True)
class Share:
    """One expert's part in the whole batch: calls, seconds to load it and to answer. `guessed`: it never ran."""

    expert: str
    calls: int
    load: float
    seconds: float
    guessed: bool


def predict(seen: Seen, assembly: Assembly, costs: CostModel, seed: int) -> list[Share]:
    """How often each expert would be asked, and for how long, extrapolated from the sample to all lines.

    A repeated prompt is asked once if it is answered greedily.
    """
    calls = _calls(seen.drawn, assembly, seed)
    drawn = sum(len(line.queries) + len(line.later) for line in seen.drawn)
    greedy = all(query.sampling.temperature == 0 for line in seen.drawn for query in line.queries)
    distinct = 1 - seen.repeated / seen.good if greedy and seen.good else 1.0
    scale = seen.asked / drawn * distinct if drawn else 0.0
    shares: list[Share] = []
    for expert in sorted(calls, key=lambda name: (assembly.models[name], name)):
        count = max(1, round(calls[expert] * scale))
        load = costs.load(expert, shares[-1].expert if shares else None)
        shares.append(Share(expert, count, load, count * costs.cost(expert).request, not costs.measured(expert)))
    return shares


def _calls(lines: Sequence[GoodLine], assembly: Assembly, seed: int) -> Counter[str]:
    """Calls of each expert that these lines begin with: its own where the first is trusted, else of all recruited."""
    calls: Counter[str] = Counter()
    open_lines = [line for line in lines if line.policy.expert is None]
    for line in lines:
        if line.policy.expert is not None:
            calls[line.policy.expert] += len(line.queries) + len(line.later)
    skills = assembly.tagger.tag([line.queries[0] for line in open_lines]) if open_lines else []
    for policy in dict.fromkeys(line.policy for line in open_lines):
        alike = [(line, skill) for line, skill in zip(open_lines, skills, strict=True) if line.policy == policy]
        queries = [line.queries[0] for line, _ in alike]
        recruitments = assembly.recruiter_for(policy).recruit(queries, [skill for _, skill in alike], policy.k, seed)
        for (line, _), recruitment in zip(alike, recruitments, strict=True):
            experts = [assignment.expert for assignment in recruitment.assignments]
            experts = experts[:1] if policy.way(recruitment) == "single" or policy.quality is not None else experts
            calls.update({expert: len(line.queries) * times for expert, times in Counter(experts).items()})
            calls[experts[0]] += len(line.later)
    return calls


def report(seen: Seen, fits: Mapping[str, Fit], shares: Sequence[Share], window: Window) -> dict[str, Any]:
    """The whole check as plain JSON types. Where a job has several windows, all but one expert are loaded in each."""
    loads = [each.load for each in shares]
    again = window.times(seen.good) - 1 if loads else 0
    loading = sum(loads) + again * (sum(loads) - max(loads, default=0.0))
    return {
        "lines": seen.lines,
        "good": seen.good,
        "bad": seen.bad,
        "shapes": dict(seen.shapes.most_common()),
        "causes": {
            code: {"lines": cause.count, "first": cause.line, "message": cause.message}
            for code, cause in sorted(seen.causes.items(), key=lambda item: -item[1].count)
        },
        "repeated": seen.repeated,
        "asked": seen.asked,
        "ignored": dict(seen.ignored.most_common()),
        "window": seen.window,
        "tokens": {
            model: {
                "median": each.median,
                "p99": each.most,
                "longest_drawn": each.longest,
                "too_long": each.too_long,
                "exact": each.exact,
            }
            for model, each in fits.items()
        },
        "experts": {
            each.expert: {
                "calls": each.calls,
                "load_seconds": round(each.load, 2),
                "answer_seconds": round(each.seconds, 1),
                "guessed": each.guessed,
            }
            for each in shares
        },
        "windows": window.why,
        "loads": len(loads) + again * (len(loads) - 1),
        "calls": sum(each.calls for each in shares),
        "seconds": round(loading + sum(each.seconds for each in shares), 1),
    }
