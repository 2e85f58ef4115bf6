"""What a batch would be, before anything runs: its lines, its errors, its prompts' tokens, its experts and its time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Protocol

import numpy as np
from xxhash import xxh3_64_intdigest

from symmoe.batch.lines import BadLine, GoodLine, KnownLine, Lines, SeenIds
from symmoe.build import Assembly
from symmoe.planning.costs import CostModel
from symmoe.types import Prompt, Query, Refusal

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
    """What a look at every line gave. `repeated` are prompts that an earlier line has word for word.

    `asked` counts queries: choices, and turns. `drawn` is a fair draw of the lines that can be asked; `long` are the
    first of `longer` lines whose prompts may not fit `window` tokens, going by their bytes.
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
        """Lines that cannot be asked."""
        return self.lines - self.good


def look(lines: Lines, window: int, seed: int, tell: Callable[[int], None] = lambda count: None) -> Seen:
    """Read every line, in memory that does not grow but for 18 bytes a line. `tell` hears how many were read."""
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
        """The prompt's tokens, or why the window is too small for it."""
        ...


@dataclass(frozen=True, slots=True)
class Fit:
    """Prompts' tokens by one model: the median, the 99th percentile and the longest of those that were drawn.

    `too_long` lines have no room for an answer in the window; with `exact` they were all counted, else it is what the
    first of the long ones say.
    """

    median: int
    most: int
    longest: int
    too_long: int
    exact: bool


def fit(seen: Seen, tokenizer: Tokenizer) -> Fit:
    """How the lines' prompts fit a model's window."""
    told = [tokenizer.prompt(line.queries[0]) for line in seen.drawn]
    counts = [len(each.ids) for each in told if isinstance(each, Prompt)] or [0]
    over = sum(_too_long(tokenizer.prompt(line.queries[0])) for line in seen.long)
    whole = len(seen.long) == seen.longer
    scaled = over if whole else round(over / len(seen.long) * seen.longer)
    middle, most = np.percentile(counts, [50, 99])
    return Fit(round(middle), round(most), max(counts), scaled, whole)


def _too_long(told: Prompt | Refusal) -> bool:
    return isinstance(told, Refusal) and told.code == "context_length_exceeded"


@dataclass(frozen=True, slots=True)
class Share:
    """What one expert would do in the whole batch: calls, seconds to load it and to answer. `guessed`: it never ran."""

    expert: str
    calls: int
    load: float
    seconds: float
    guessed: bool


def predict(seen: Seen, assembly: Assembly, costs: CostModel, seed: int) -> list[Share]:
    """Who would be asked how often, and for how long: what is true of the lines that were drawn, for all of them.

    Each expert is loaded once. A prompt that stands there again is asked once where it is answered without chance.
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
        found = assembly.recruiter_for(policy).recruit(queries, [skill for _, skill in alike], policy.k, seed)
        for (line, _), recruitment in zip(alike, found, strict=True):
            asked = [assignment.expert for assignment in recruitment.assignments]
            asked = asked[:1] if policy.way(recruitment) == "single" or policy.quality is not None else asked
            calls.update({expert: len(line.queries) * times for expert, times in Counter(asked).items()})
            calls[asked[0]] += len(line.later)
    return calls


def report(seen: Seen, fits: Mapping[str, Fit], shares: Sequence[Share]) -> dict[str, Any]:
    """The whole check as plain JSON types."""
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
        "loads": len(shares),
        "calls": sum(each.calls for each in shares),
        "seconds": round(sum(each.load + each.seconds for each in shares), 1),
    }
