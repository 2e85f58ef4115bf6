"""From a question to its answer, without I/O: it says what it needs next, is given that, and ends with a trace.

Whoever drives it decides where and when things happen: `pipeline` answers a batch in waves, each expert loaded once a
wave; the service answers each request in a task of its own; a replay gives recorded texts. What they give, and so the
answer, is the same.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from symmoe.aggregation.extraction import encodable
from symmoe.aggregation.synthesis import NO_ROOM, Settled, Synthesis, decide, prompts, settle
from symmoe.aggregation.verifier import Verifying
from symmoe.aggregation.vote import Case, VoteState, further, no_answer, standing
from symmoe.policy import Policy
from symmoe.protocols import Aggregator
from symmoe.scoring.weighing import weigh_by_records, weight_of
from symmoe.types import (
    Answer,
    Assignment,
    Belief,
    Candidate,
    Explanation,
    Hedge,
    Query,
    Recruitment,
    Refusal,
    Skills,
    Trace,
    Verdict,
    Way,
)

UNAVAILABLE = "expert_unavailable"
"""The code of a refusal after which others are recruited in the expert's place."""

TOO_LONG = "context_length_exceeded"
"""The code of a refusal after which an aggregator is asked with a shorter prompt."""

_REROUTES = 2


@dataclass(frozen=True, slots=True)
class Recruit:
    """Needs to know who answers a query; wants `Routed`, or a `Refusal` where nobody can."""

    query: Query
    policy: Policy


@dataclass(frozen=True, slots=True)
class Ask:
    """Needs what the recruited say; wants, in the order of the assignments, a `Candidate` or a `Refusal` of each.

    The words of a `final` one are the answer: they may be passed on while they come. Who is pressed for time may ask
    the `spare`, whom the next wave would ask, beside these, and give `Partly` what was said so far; what is not said by
    then is needed again, and no more once an `Ask` leaves it out or something else is needed.
    """

    query: Query
    recruitment: Recruitment
    final: bool = False
    spare: tuple[Assignment, ...] = ()

    @property
    def aggregating(self) -> bool:
        """Whether it is an aggregator that is asked; its answer can be done without."""
        return any(assignment.slot < 0 for assignment in self.recruitment.assignments)


@dataclass(frozen=True, slots=True)
class Partly:
    """What some of those asked have said, the others being under way; `hedge` tells who was asked beside them."""

    said: Mapping[Assignment, Said]
    hedge: Hedge | None = None


@dataclass(frozen=True, slots=True)
class Weigh:
    """Needs a verdict on each candidate; wants `Weighed`."""

    query: Query
    candidates: tuple[Candidate, ...]
    recruitment: Recruitment


@dataclass(frozen=True, slots=True)
class Routed:
    """Who was recruited, for which skills (None where none were looked for), and why, if that was asked for.

    `way` says how the answer comes about, `seconds` what the decision took.
    """

    way: Way
    recruitment: Recruitment
    skills: Skills | None = None
    explanation: Explanation | None = None
    seconds: float = 0.0

    @property
    def asked(self) -> tuple[Assignment, ...]:
        """The assignments that are carried out: one expert's where its answer stands alone."""
        assignments = self.recruitment.assignments
        return assignments if self.way == "aggregated" else assignments[:1]


@dataclass(frozen=True, slots=True)
class Weighed:
    """A verdict on each candidate, in order. With `trouble` the experts' records alone decided, and this is why."""

    verdicts: tuple[Verdict, ...]
    trouble: str = ""


Need = Recruit | Ask | Weigh
Said = Candidate | Refusal
Given = Routed | Refusal | Sequence[Said] | Partly | Weighed
Result = TypeVar("Result")
Steps = Generator[Need, Given, Result]
"""Yields what it needs, is sent what it wanted, and returns its result."""


@dataclass(frozen=True, slots=True)
class Judging:
    """How candidates become one answer: by a vote, and where that is not enough by an aggregator, if there is one.

    `belief` says how far a vote is believed when a policy's dial decides whether further experts are asked; with
    `verifying` answers are believed, and weighed, as it says.
    """

    vote: Aggregator
    synthesis: Synthesis | None = None
    belief: Belief = field(default_factory=Belief)
    verifying: Verifying | None = None

    def weigh(self, query: Query, candidates: Sequence[Candidate], recruitment: Recruitment) -> list[Verdict]:
        """What candidates weigh before, or without, the pool's scorer."""
        if self.verifying is None or not recruitment.accuracies:
            return weigh_by_records(query, candidates, recruitment)
        return self.verifying.weigh(query, candidates, recruitment)

    def standing(self, query: Query, recruitment: Recruitment, verdicts: Sequence[Verdict], voted: Answer) -> VoteState:
        """How a vote stands; accuracies are known."""
        return standing(query, recruitment, verdicts, voted.votes, self.verifying is not None)


@dataclass(frozen=True, slots=True)
class Over(Generic[Result]):
    """What came of it."""

    result: Result


def advance(steps: Steps[Result], given: Given | None = None) -> Need | Over[Result]:
    """Give what was needed, None at the beginning: what is needed next, or the result."""
    try:
        return next(steps) if given is None else steps.send(given)
    except StopIteration as over:
        return Over(over.value)


def named(query: Query, expert: str) -> Routed:
    """A question for an expert whom the client chose."""
    return Routed("named", Recruitment(query.id, (Assignment(query.id, expert, 0),), {expert: 1.0}))


def stayed(query: Query, expert: str) -> Routed:
    """A question that goes on what this expert began: its tools were called, and these are their results."""
    return replace(named(query, expert), way="single")


def writable(candidate: Candidate) -> Candidate:
    """A candidate as it can be written to a file, whatever an engine gave."""
    text = encodable(candidate.text)
    return candidate if text == candidate.text else replace(candidate, text=text)


def answering(
    query: Query, policy: Policy, judging: Judging, seed: int = 0, pressed: bool = False
) -> Steps[Trace | Refusal]:
    """One question on its way to its answer.

    Under a policy with a dial the recruited are asked in waves, until the vote is believed far enough. Where none of
    the experts asked is to be had, others are, twice at most. Experts that fail beside others have no say.
    `seed` decides the order in which an aggregator sees the candidates. For one `pressed` for time the `Ask` of a wave
    names its spare experts.
    """
    missing: Refusal | None = None
    failed: dict[str, str] = {}
    for attempt in range(1 + _REROUTES):
        routed = yield from _routed(query, policy, attempt > 0)
        if isinstance(routed, Refusal):
            return replace(missing or routed, failed=failed)
        hearing = _Hearing(query, routed, policy, judging, pressed)
        vote = yield from hearing.heard()
        said = hearing.said
        missing = _missing(list(said.values()))
        refused = ((a.expert, each) for a, each in said.items() if isinstance(each, Refusal))
        failed |= {expert: each.message for expert, each in refused if not each.by_query}
        if missing is None:
            result = yield from _judged(query, routed, hearing.candidates, judging, seed, vote)
            if isinstance(result, Trace) and hearing.hedges:
                result = replace(result, hedges=tuple(hearing.hedges), unheard=hearing.unheard)
            return replace(result, failed=failed) if failed else result
        if missing.code != UNAVAILABLE and not missing.elsewhere:
            break
        if routed.way != "named":
            policy = policy.excluding(tuple(assignment.expert for assignment in said))
        elif policy.fallbacks:
            policy = replace(policy, expert=policy.fallbacks[0], fallbacks=policy.fallbacks[1:])
        else:
            break
    missing = missing or Refusal(query.id, UNAVAILABLE, "no expert can be asked just now", status=503, retry_after=1.0)
    return replace(missing, failed=failed) if failed else missing


_Vote = tuple[tuple[Verdict, ...], Answer]
"""Verdicts on all that was said, and the answer that they make."""


class _Hearing:
    """The recruited are asked: all of them, or in waves as many as the policy's dial wants to hear.

    Waves follow each other. Where whoever drives this has asked some of the next wave beside the one before, each wave
    is begun no later than it would be otherwise, and what is `said` by then decides as soon as it can: no answer is
    later, and nobody is asked who would not be if all were asked at once.
    """

    def __init__(self, query: Query, routed: Routed, policy: Policy, judging: Judging, pressed: bool) -> None:
        self._pressed = pressed and routed.way == "aggregated" and policy.quality is not None
        self._query, self._routed, self._policy, self._judging = query, routed, policy, judging
        self._said: dict[Assignment, Said] = {}
        self._beside: list[Assignment] = []
        self._asked: dict[Assignment, None] = {}
        self.hedges: list[Hedge] = []

    @property
    def said(self) -> dict[Assignment, Said]:
        """What was said, in the order in which experts were recruited."""
        if not self._beside:
            return self._said
        return {each: self._said[each] for each in self._routed.asked if each in self._said}

    @property
    def unheard(self) -> tuple[str, ...]:
        """Experts that were asked beside others, or with others beside them, and have not spoken."""
        return tuple(each.expert for each in self._asked if each not in self._said)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The same, of experts that failed beside others with nothing in it."""
        return tuple(_candidate(*each) for each in self.said.items())

    def heard(self) -> Steps[_Vote | None]:
        """Ask. Returns the vote on all that was said, where one was held."""
        asked, final, place, waves = self._routed.asked, self._routed.way != "aggregated", 0, 0
        size, vote = (len(asked), None) if final else self._wave((), asked, waves)
        while size:
            wave = asked[place : place + size]
            while any(each not in self._said for each in wave):
                yield from self._ask(wave, final, waves)
                if self._beside and self._decided(waves):
                    return None
            place, waves = place + size, waves + 1
            at_fault = any(isinstance(each, Refusal) and each.by_query for each in self._said.values())
            over = at_fault or place == len(asked)
            size, vote = (0, None) if over else self._wave(asked[:place], asked[place:], waves)
        return None if self._beside else vote

    def _ask(self, wave: tuple[Assignment, ...], final: bool, waves: int) -> Steps[None]:
        """Ask a wave, or wait for it and for those asked beside it, with whom the next would ask as spare."""
        under_way = wave
        if self._beside:
            under_way = tuple(each for each in dict.fromkeys((*wave, *self._beside)) if each not in self._said)
        spare = self._spare(under_way, waves) if self._pressed else ()
        recruitment = self._routed.recruitment
        if under_way != recruitment.assignments:
            recruitment = replace(recruitment, assignments=under_way)
        given = yield Ask(self._query, recruitment, final, spare)
        if isinstance(given, Partly):
            self._said |= given.said
            self._asked |= dict.fromkeys(under_way)
            if given.hedge is not None:
                self.hedges.append(given.hedge)
                self._asked |= dict.fromkeys(spare)
                self._beside += spare
        else:
            assert isinstance(given, Sequence)  # noqa: S101  (what `Ask` wants)
            self._said |= zip(under_way, given, strict=True)

    def _spare(self, under_way: Sequence[Assignment], waves: int) -> tuple[Assignment, ...]:
        """Who would be asked next if those under way said nothing; one at least, if one is left."""
        left = [each for each in self._routed.asked if each not in self._said and each not in under_way]
        if not left:
            return ()
        return tuple(left[: max(1, self._wave(tuple(self.said), left, waves + 1 + len(self.hedges))[0])])

    def _decided(self, waves: int) -> bool:
        """Whether what was said while others are under way is enough: a fault of the question's, or a vote."""
        if any(isinstance(each, Refusal) and each.by_query for each in self._said.values()):
            return True
        said = tuple(self.said)
        left = [each for each in self._routed.asked if each not in self._said]
        return bool(left) and self._wave(said, left, max(1, waves))[0] == 0

    def _wave(self, heard: Sequence[Assignment], left: Sequence[Assignment], waves: int) -> tuple[int, _Vote | None]:
        """How many of those left are asked next, and the vote on what these said, if that decides."""
        query, recruitment, judging = self._query, self._routed.recruitment, self._judging
        if self._policy.quality is None or not recruitment.accuracies:
            return len(left), None
        vote: _Vote | None = None
        if heard:
            candidates = tuple(_candidate(each, self._said[each]) for each in heard)
            verdicts = judging.weigh(query, candidates, recruitment)
            vote = tuple(verdicts), judging.vote.aggregate(query, candidates, verdicts)
            now = judging.standing(query, recruitment, *vote)
        else:
            now = standing(query, recruitment, (), ())
        worth = [weight_of(query.text, recruitment, assignment.expert) for assignment in left]
        return further(now, list(zip(worth, worth, strict=True)), self._policy.quality, judging.belief, waves), vote


def synthesising(case: Case, synthesis: Synthesis, seed: int = 0) -> Steps[Settled]:
    """A voted case as the vote left it or, where the rule wants that, as an aggregator answers it.

    A prompt that the engine refuses as too long is made shorter; where the aggregator cannot be had, the vote stands.
    """
    decision, clusters = decide(synthesis, case), synthesis.clusters
    if not decision.aggregator:
        return settle(decision)
    for prompt in prompts(synthesis, case, seed):
        (said,) = yield from _said(Ask(prompt.query, decision.recruitment))
        if isinstance(said, Candidate):
            return settle(decision, prompt, said, clusters=clusters)
        if said.code != TOO_LONG:
            return settle(decision, prompt, None, f"the aggregator could not run: {said.message}", clusters)
    return settle(decision, trouble=NO_ROOM)


def _judged(
    query: Query,
    routed: Routed,
    candidates: tuple[Candidate, ...],
    judging: Judging,
    seed: int,
    vote: _Vote | None,
) -> Steps[Trace | Refusal]:
    """The answer that candidates make. What stands alone is passed on as it is, also where it is empty. A `vote` that
    was held holds where the scorer comes to the same verdicts.
    """
    unanswered = no_answer(query, candidates)
    together = routed.way == "aggregated"
    if unanswered is not None and (together or candidates[0].finish_reason == "error"):
        return unanswered
    recruitment = routed.recruitment
    if together:
        weighed = yield Weigh(query, candidates, recruitment)
        assert isinstance(weighed, Weighed)  # noqa: S101  (what `Weigh` wants)
    else:
        weighed = Weighed(tuple(judging.weigh(query, candidates, recruitment)))
    if vote is not None and vote[0] == weighed.verdicts:
        voted = vote[1]
    else:
        voted = judging.vote.aggregate(query, candidates, weighed.verdicts)
    case = Case(query, candidates, weighed.verdicts, voted)
    if together and judging.synthesis is not None and not query.sampling.tools:  # an aggregator writes prose
        settled = yield from synthesising(case, judging.synthesis, seed)
    else:
        settled = Settled(case, voted)
    posterior = None
    if recruitment.accuracies:
        now = judging.standing(query, recruitment, weighed.verdicts, voted)
        posterior = round(now.posterior(judging.belief), 6)
    return _trace(routed, settled, weighed.trouble, posterior)


def _routed(query: Query, policy: Policy, again: bool) -> Steps[Routed | Refusal]:
    if policy.expert is not None and not again:  # whether a fallback may be asked is not for us to know
        return named(query, policy.expert)
    if policy.stays is not None:
        return stayed(query, policy.stays)
    routed = yield Recruit(query, policy)
    assert isinstance(routed, Routed | Refusal)  # noqa: S101  (what `Recruit` wants)
    return routed


def _said(ask: Ask) -> Steps[Sequence[Said]]:
    said = yield ask
    assert isinstance(said, Sequence)  # noqa: S101  (what `Ask` wants)
    return said


def _missing(said: Sequence[Said]) -> Refusal | None:
    """Why there is nothing to judge: the query's own fault, or that of every expert asked."""
    refused = [each for each in said if isinstance(each, Refusal)]
    fatal = [each for each in refused if each.by_query]
    return (fatal or refused)[0] if fatal or len(refused) == len(said) else None


def _candidate(assignment: Assignment, said: Said) -> Candidate:
    """What an expert gave; of one that failed beside others, nothing."""
    if isinstance(said, Candidate):
        return said
    return Candidate(assignment.query_id, assignment.expert, assignment.slot, "", "error", 0, 0, "resident")


def _trace(routed: Routed, settled: Settled, trouble: str, posterior: float | None) -> Trace:
    answer, recruitment, skills = settled.answer, routed.recruitment, routed.skills
    if trouble:
        why = f"weighed by the experts' records alone: {trouble}"
        answer = replace(answer, why="; ".join(filter(None, (answer.why, why))))
    return Trace(
        query_id=recruitment.query_id,
        skills=skills.matches if skills else (),
        shares=recruitment.shares,
        recruited=tuple(assignment.expert for assignment in recruitment.assignments),
        candidates=settled.case.candidates,
        verdicts=settled.case.verdicts,
        answer=answer,
        facets=skills.facets if skills else (),
        explanation=routed.explanation,
        consensus=settled.consensus,
        synthesis=settled.synthesis,
        way=routed.way,
        posterior=posterior,
    )
