"""The way from a question to its answer, without I/O: a generator that yields needs and returns a trace.

A driver meets the needs: `pipeline` those of a whole batch in waves, loading each expert once a wave; the service those
of each request in a task of its own; a replay with recorded texts. Given the same, all three reach the same answer.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Generic, NamedTuple, TypeVar

from symmoe.aggregation.extraction import encodable
from symmoe.aggregation.synthesis import NO_ROOM, Settled, Synthesis, decide, prompts, settle
from symmoe.aggregation.verifier import Verifying
from symmoe.aggregation.vote import Case, VoteState, next_wave, no_answer, vote_state
from symmoe.policy import Policy
from symmoe.protocols import Aggregator
from symmoe.questions.families import options_of
from symmoe.scoring.weighing import weigh_by_records, weights_of
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
from symmoe.types.quick import quick

UNAVAILABLE = "expert_unavailable"
"""The code of a refusal after which others are recruited in the expert's place."""

TOO_LONG = "context_length_exceeded"
"""The code of a refusal after which an aggregator is asked with a shorter prompt."""

_REROUTES = 2


@quick(frozen=True, slots=True)
class Recruit:
    """The need for a routing decision. Met with `Routed`, or with a `Refusal` if no expert can be asked."""

    query: Query
    policy: Policy


@quick(frozen=True, slots=True)
class Ask:
    """The need for experts' replies. Met with a `Candidate` or a `Refusal` for each assignment, in their order.

    The text of a `final` one is the answer and may be passed on as it is generated. A driver short of time may also ask
    the `spare` experts, those of the next wave, and give the `PartialReplies` that have come by then. Assignments still
    without a reply are asked for again in the next `Ask`; those it leaves out may be cancelled.
    """

    query: Query
    recruitment: Recruitment
    final: bool = False
    spare: tuple[Assignment, ...] = ()

    @property
    def aggregating(self) -> bool:
        """Whether an aggregator is asked. Without its reply the vote's answer stands."""
        return any(assignment.slot < 0 for assignment in self.recruitment.assignments)


@dataclass(frozen=True, slots=True)
class PartialReplies:
    """The replies so far, while other calls are still running. `hedge` describes the spare experts asked, if any."""

    replies: Mapping[Assignment, Reply]
    hedge: Hedge | None = None


@quick(frozen=True, slots=True)
class Weigh:
    """The need for a verdict on each candidate. Met with `Weighed`."""

    query: Query
    candidates: tuple[Candidate, ...]
    recruitment: Recruitment


@quick(frozen=True, slots=True)
class Routed:
    """A routing decision: the experts recruited, the skills found, and the reasons if they were requested.

    `way` says how the answer is made. `skills` is None if none were looked for. `seconds` is what the decision took.
    """

    way: Way
    recruitment: Recruitment
    skills: Skills | None = None
    explanation: Explanation | None = None
    seconds: float = 0.0

    @property
    def asked(self) -> tuple[Assignment, ...]:
        """The assignments to carry out: only the first unless answers are aggregated."""
        assignments = self.recruitment.assignments
        return assignments if self.way == "aggregated" else assignments[:1]


@quick(frozen=True, slots=True)
class Weighed:
    """A verdict on each candidate, in order. `trouble` says why experts' records decided without the scorer."""

    verdicts: tuple[Verdict, ...]
    trouble: str = ""


Need = Recruit | Ask | Weigh
Reply = Candidate | Refusal
"""What came of one assignment."""
Given = Routed | Refusal | Sequence[Reply] | PartialReplies | Weighed
Result = TypeVar("Result")
Steps = Generator[Need, Given, Result]
"""Yields a need, is sent what meets it, and so on until it returns its result."""


@dataclass(frozen=True, slots=True)
class Judging:
    """How candidates become one answer: by a vote and, with `synthesis`, by an aggregator where its rule wants one.

    `belief` turns the state of a vote into the probability that its leading answer is right, which a policy's dial is
    held against. With `verifying` the weights of answers are such probabilities already.
    """

    vote: Aggregator
    synthesis: Synthesis | None = None
    belief: Belief = field(default_factory=Belief)
    verifying: Verifying | None = None

    def weigh(self, query: Query, candidates: Sequence[Candidate], recruitment: Recruitment) -> list[Verdict]:
        """Verdicts on candidates from experts' records, without the pool's scorer."""
        if self.verifying is None or not recruitment.accuracies:
            return weigh_by_records(query, candidates, recruitment)
        return self.verifying.weigh(query, candidates, recruitment)

    def vote_state(
        self, query: Query, recruitment: Recruitment, verdicts: Sequence[Verdict], voted: Answer
    ) -> VoteState:
        """The state of a vote, for a recruitment with known accuracies."""
        return vote_state(query, recruitment, verdicts, voted.votes, self.verifying is not None)


@quick(frozen=True, slots=True)
class Done(Generic[Result]):
    """The end of `Steps`, with their result."""

    result: Result


def advance(steps: Steps[Result], given: Given | None = None) -> Need | Done[Result]:
    """Send what meets the current need (None to begin with) and return the next need, or the result."""
    try:
        return next(steps) if given is None else steps.send(given)
    except StopIteration as stop:
        return Done(stop.value)


def routed_by_name(query: Query, expert: str) -> Routed:
    """The routing of a query to the expert that the client named."""
    return Routed("named", Recruitment(query.id, (Assignment(query.id, expert, 0),), {expert: 1.0}))


def routed_as_before(query: Query, expert: str) -> Routed:
    """The routing of a tool loop's next turn to the expert that called the tools."""
    return replace(routed_by_name(query, expert), way="single")


def writable(candidate: Candidate) -> Candidate:
    """The candidate with text that can be encoded as UTF-8."""
    text = encodable(candidate.text)
    return candidate if text == candidate.text else replace(candidate, text=text)


def answering(
    query: Query, policy: Policy, judging: Judging, seed: int = 0, pressed: bool = False
) -> Steps[Trace | Refusal]:
    """The steps from one query to its trace, or to a refusal if no expert answers.

    Under a policy with a dial experts are asked in waves, until the vote is believed as far as the dial wants. If none
    of the experts asked is available others are recruited in their place, at most twice; one that fails beside others
    that answer has no vote. `seed` decides the order in which an aggregator sees the candidates. If `pressed` for time,
    the `Ask` of a wave names its spare experts.
    """
    missing: Refusal | None = None
    failed: dict[str, str] = {}
    for attempt in range(1 + _REROUTES):
        routed = yield from _routed(query, policy, attempt > 0)
        if isinstance(routed, Refusal):
            return replace(missing or routed, failed=failed)
        consultation = _Consultation(query, routed, policy, judging, pressed)
        vote = yield from consultation.run()
        replies = consultation.replies
        missing = _missing(list(replies.values()))
        refused = ((a.expert, each) for a, each in replies.items() if isinstance(each, Refusal))
        failed |= {expert: each.message for expert, each in refused if not each.by_query}
        if missing is None:
            result = yield from _judged(query, routed, consultation.candidates, judging, seed, vote)
            if isinstance(result, Trace) and consultation.hedges:
                result = replace(result, hedges=tuple(consultation.hedges), unheard=consultation.unheard)
            return replace(result, failed={**result.failed, **failed}) if failed else result
        if missing.code != UNAVAILABLE and not missing.elsewhere:
            break
        if routed.way != "named":
            policy = policy.excluding(tuple(assignment.expert for assignment in replies))
        elif policy.fallbacks:
            policy = replace(policy, expert=policy.fallbacks[0], fallbacks=policy.fallbacks[1:])
        else:
            break
    missing = missing or Refusal(query.id, UNAVAILABLE, "no expert can be asked just now", status=503, retry_after=1.0)
    return replace(missing, failed=failed) if failed else missing


class _Vote(NamedTuple):
    """The verdicts on all candidates so far, the answer of the vote on them, and the state of that vote."""

    verdicts: tuple[Verdict, ...]
    answer: Answer
    state: VoteState


class _Consultation:
    """Asks the recruited experts: all at once or, under a policy with a dial, in waves.

    A wave begins when the one before has replied in full or, if the driver asked its experts as spares, earlier; then
    each further reply may end the consultation. So hedging never makes an answer later, nor does it ask an expert that
    asking all at once would not.
    """

    def __init__(self, query: Query, routed: Routed, policy: Policy, judging: Judging, pressed: bool) -> None:
        self._pressed = pressed and routed.way == "aggregated" and policy.quality is not None
        self._query, self._routed, self._policy, self._judging = query, routed, policy, judging
        self._replies: dict[Assignment, Reply] = {}
        self._hedged: list[Assignment] = []
        self._asked: dict[Assignment, None] = {}
        self.hedges: list[Hedge] = []

    @property
    def replies(self) -> dict[Assignment, Reply]:
        """The replies so far, in the order of recruitment."""
        if not self._hedged:
            return self._replies
        return {each: self._replies[each] for each in self._routed.asked if each in self._replies}

    @property
    def unheard(self) -> tuple[str, ...]:
        """Experts of a hedged wave whose replies had not come when the consultation ended."""
        return tuple(each.expert for each in self._asked if each not in self._replies)

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """The replies as candidates; one without text for each expert that failed."""
        return tuple(_candidate(*each) for each in self.replies.items())

    @property
    def _at_fault(self) -> bool:
        """Whether the query itself was refused."""
        return any(isinstance(each, Refusal) and each.by_query for each in self._replies.values())

    def run(self) -> Steps[_Vote | None]:
        """Ask, and return the vote on all replies if one was taken."""
        asked, final, place, waves = self._routed.asked, self._routed.way != "aggregated", 0, 0
        size, vote = (len(asked), None) if final else self._wave((), asked, waves)
        while size:
            wave = asked[place : place + size]
            while not self._replies.keys() >= set(wave):
                yield from self._ask(wave, final, waves)
                if self._hedged and self._decided(waves):
                    return None
            place, waves = place + size, waves + 1
            end = place == len(asked) or self._at_fault
            size, vote = (0, None) if end else self._wave(asked[:place], asked[place:], waves)
        return None if self._hedged else vote

    def _ask(self, wave: tuple[Assignment, ...], final: bool, waves: int) -> Steps[None]:
        """Ask a wave, or wait on for it and for the spare experts asked beside it."""
        under_way = wave
        if self._hedged:
            under_way = tuple(each for each in dict.fromkeys((*wave, *self._hedged)) if each not in self._replies)
        spare = self._spare(under_way, waves) if self._pressed else ()
        recruitment = self._routed.recruitment
        if under_way != recruitment.assignments:
            recruitment = Recruitment(self._query.id, under_way, recruitment.shares, recruitment.accuracies)
        replies = yield Ask(self._query, recruitment, final, spare)
        if isinstance(replies, PartialReplies):
            self._replies |= replies.replies
            self._asked |= dict.fromkeys(under_way)
            if replies.hedge is not None:
                self.hedges.append(replies.hedge)
                self._asked |= dict.fromkeys(spare)
                self._hedged += spare
        else:
            assert isinstance(replies, Sequence)  # noqa: S101  (what `Ask` wants)
            self._replies |= zip(under_way, replies, strict=True)

    def _spare(self, under_way: Sequence[Assignment], waves: int) -> tuple[Assignment, ...]:
        """The experts that would be asked next if those being asked gave no answer: at least one, if one is left."""
        left = [each for each in self._routed.asked if each not in self._replies and each not in under_way]
        if not left:
            return ()
        return tuple(left[: max(1, self._wave(tuple(self.replies), left, waves + 1 + len(self.hedges))[0])])

    def _decided(self, waves: int) -> bool:
        """Whether the replies so far are enough: a decided vote, or a fault of the query itself."""
        if self._at_fault:
            return True
        replies = tuple(self.replies)
        left = [each for each in self._routed.asked if each not in self._replies]
        return bool(left) and self._wave(replies, left, max(1, waves))[0] == 0

    def _wave(self, replied: Sequence[Assignment], left: Sequence[Assignment], waves: int) -> tuple[int, _Vote | None]:
        """How many of those `left` to ask next, and the vote on the replies that decided it."""
        query, recruitment, judging = self._query, self._routed.recruitment, self._judging
        if self._policy.quality is None or not recruitment.accuracies:
            return len(left), None
        vote: _Vote | None = None
        if replied:
            candidates = tuple(_candidate(each, self._replies[each]) for each in replied)
            verdicts = tuple(judging.weigh(query, candidates, recruitment))
            answer = judging.vote.aggregate(query, candidates, verdicts)
            state = judging.vote_state(query, recruitment, verdicts, answer)
            vote = _Vote(verdicts, answer, state)
        else:
            state = VoteState((), (), 0, options_of(query.text))
        worth = weights_of(query.text, recruitment, [assignment.expert for assignment in left])
        return next_wave(state, list(zip(worth, worth, strict=True)), self._policy.quality, judging.belief, waves), vote


def synthesising(case: Case, synthesis: Synthesis, seed: int = 0) -> Steps[Settled]:
    """The answer to a voted case: the vote's, or an aggregator's where the rule of `synthesis` wants one.

    A prompt that the engine refuses as too long is shortened. If the aggregator is unavailable the vote's stands.
    """
    decision, clusters = decide(synthesis, case), synthesis.clusters
    if not decision.aggregator:
        return settle(decision)
    for prompt in prompts(synthesis, case, seed):
        (reply,) = yield from _replies(Ask(prompt.query, decision.recruitment))
        if isinstance(reply, Candidate):
            return settle(decision, prompt, reply, clusters=clusters)
        if reply.code != TOO_LONG:
            return settle(decision, prompt, None, f"the aggregator could not run: {reply.message}", clusters)
    return settle(decision, trouble=NO_ROOM)


def _judged(
    query: Query,
    routed: Routed,
    candidates: tuple[Candidate, ...],
    judging: Judging,
    seed: int,
    vote: _Vote | None,
) -> Steps[Trace | Refusal]:
    """The trace of the answer that candidates make. A lone candidate is passed on as it is, even if empty.

    The `vote` of the consultation is used again if the scorer's verdicts are those it was taken with.
    """
    unanswered = no_answer(query, candidates)
    aggregated = routed.way == "aggregated"
    if unanswered is not None and (aggregated or candidates[0].finish_reason == "error"):
        return unanswered
    recruitment = routed.recruitment
    if aggregated:
        weighed = yield Weigh(query, candidates, recruitment)
        assert isinstance(weighed, Weighed)  # noqa: S101  (what `Weigh` wants)
    else:
        weighed = Weighed(tuple(judging.weigh(query, candidates, recruitment)))
    if vote is not None and vote.verdicts != weighed.verdicts:
        vote = None
    voted = judging.vote.aggregate(query, candidates, weighed.verdicts) if vote is None else vote.answer
    case = Case(query, candidates, weighed.verdicts, voted)
    if aggregated and judging.synthesis is not None and not query.sampling.tools:  # an aggregator writes prose
        settled = yield from synthesising(case, judging.synthesis, seed)
    else:
        settled = Settled(case, voted)
    posterior = None
    if recruitment.accuracies:
        state = judging.vote_state(query, recruitment, weighed.verdicts, voted) if vote is None else vote.state
        posterior = round(state.posterior(judging.belief), 6)
    return _trace(routed, settled, weighed.trouble, posterior)


def _routed(query: Query, policy: Policy, again: bool) -> Steps[Routed | Refusal]:
    if policy.expert is not None and not again:  # whether a fallback may be asked is not for us to know
        return routed_by_name(query, policy.expert)
    if policy.stays is not None:
        return routed_as_before(query, policy.stays)
    routed = yield Recruit(query, policy)
    assert isinstance(routed, Routed | Refusal)  # noqa: S101  (what `Recruit` wants)
    return routed


def _replies(ask: Ask) -> Steps[Sequence[Reply]]:
    replies = yield ask
    assert isinstance(replies, Sequence)  # noqa: S101  (what `Ask` wants)
    return replies


def _missing(replies: Sequence[Reply]) -> Refusal | None:
    """Why there is nothing to judge: a fault of the query itself, or the first refusal if all refused; else None."""
    refused = [each for each in replies if isinstance(each, Refusal)]
    fatal = [each for each in refused if each.by_query]
    return (fatal or refused)[0] if fatal or len(refused) == len(replies) else None


def _candidate(assignment: Assignment, reply: Reply) -> Candidate:
    """The reply as a candidate; an empty one if the expert failed."""
    if isinstance(reply, Candidate):
        return reply
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
