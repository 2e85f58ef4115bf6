"""What a pool learns by asking its experts: their records, a newcomer's record, and the keywords of questions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date

from symmoe.aggregation.extraction import extract
from symmoe.build import Assembly, expert_fingerprint, recruiter_under
from symmoe.pipeline import UNWATCHED, Watch
from symmoe.planning.grouping import plan
from symmoe.profiles.believing import SIZES, learn_belief, learn_verifier, recruit_by_halves
from symmoe.profiles.marking import Matrix, as_query, gathered, run_matrix
from symmoe.routing.keywords import PASSES, annotation_queries, keywords_of
from symmoe.routing.onboarding import borrow, diverse_questions, earned_by_agreement, likeness
from symmoe.routing.profiles import build_profile, complete, identity, merge, parents_of, recorded
from symmoe.routing.recruiters.posterior import PosteriorRecruiter
from symmoe.types import Assignment, ExpertProfile, Profiles, Question, RecordedQuestion, Recruitment, Skills

LEAST_QUESTIONS = 3
"""A skill that fewer questions need is no evidence."""


def evidence_digest(questions: Sequence[Question], skills: Sequence[Skills]) -> str:
    """A digest of the evidence: the questions, their answers, and the skills that they were tagged with."""
    digest = hashlib.sha256()
    for question, needed in zip(questions, skills, strict=True):
        digest.update(repr((question.question, question.answer, question.scorer)).encode())
        digest.update(repr(([match.skill for match in needed.matches], needed.facets)).encode())
    return digest.hexdigest()[:16]


def tag_questions(assembly: Assembly, questions: Sequence[Question]) -> list[Skills]:
    """The skills of validation questions, by the pool's tagger."""
    return assembly.tagger.tag([as_query(question, assembly.pool.sampling) for question in questions])


def profile_pool(
    assembly: Assembly,
    questions: Sequence[Question],
    skills: Sequence[Skills],
    known: Profiles,
    saved: Callable[[Profiles], None],
    watch: Watch = UNWATCHED,
    add: bool = False,
) -> Profiles:
    """Ask these questions of every expert whose present weights have no record in `known`; `saved` gets each state.

    A question that an expert did not answer, or that has no recorded answer, does not count. With `add` the answers are
    added to earlier ones of the same weights, otherwise they replace them. An interruption loses the answers of at most
    one expert: pass what was saved as `known` to continue.
    """
    pool, digest = assembly.pool, evidence_digest(questions, skills)
    every_topic = pool.routing.recruiter != "symmoe"
    asked = Profiles({}, parents_of(skills), known.belief, _recorded(questions, skills), pool.routing.embedder)
    profiles = merge(known, asked)
    for name in pool.names:
        weights = expert_fingerprint(pool, name)
        record = profiles.experts.get(name)
        if record is not None and record.fingerprint == weights and digest in record.digests:
            continue
        matrix = run_matrix(
            assembly.executor, [name], assembly.models, questions, pool.sampling, watch, assembly.pool.most_tokens
        )
        fresh = _earned(matrix, name, skills, range(len(questions)), every_topic, weights, digest)
        fresh_profiles = replace(profiles, experts={name: fresh})
        others = {e: p for e, p in profiles.experts.items() if e != name}
        kept = profiles if add else replace(profiles, experts=others)
        profiles = merge(kept, fresh_profiles)
        saved(profiles)
    return complete(profiles, pool.names)


def profile_records(
    assembly: Assembly, questions: Sequence[Question], skills: Sequence[Skills], seed: int, watch: Watch = UNWATCHED
) -> Profiles:
    """The records of all experts of a pool that answers from records.

    Also how far their votes can be believed, and a verifier of their answers if that is better than a vote.
    """
    pool, digest = assembly.pool, evidence_digest(questions, skills)
    every_topic = pool.routing.recruiter != "symmoe"
    matrix = run_matrix(
        assembly.executor, pool.names, assembly.models, questions, pool.sampling, watch, assembly.pool.most_tokens
    )
    weights = {name: expert_fingerprint(pool, name) for name in pool.names}

    def profiled(places: Sequence[int]) -> Profiles:
        needed = parents_of([skills[place] for place in places])
        experts = {
            name: _earned(matrix, name, skills, places, every_topic, weights[name], digest) for name in pool.names
        }
        subset = [questions[place] for place in places]
        asked = _recorded(subset, [skills[place] for place in places])
        return Profiles(experts, needed, questions=asked, embedder=pool.routing.embedder)

    queries = [as_query(question, pool.sampling) for question in questions]
    recruited = recruit_by_halves(
        queries,
        skills,
        profiled,
        lambda known: recruiter_under(pool, known, assembly.embedder, True, None, ()),
        max(pool.routing.k, *SIZES),
        seed,
    )
    belief = learn_belief(matrix, recruited, pool.routing.k)
    weighs = pool.reward is None and pool.routing.recruiter == "symmoe"
    verifier = learn_verifier(matrix, recruited, pool.routing.k, seed) if weighs else None
    return replace(profiled(range(len(questions))), belief=belief, verifier=verifier)


def _earned(
    matrix: Matrix,
    expert: str,
    skills: Sequence[Skills],
    places: Sequence[int],
    every_topic: bool,
    weights: str,
    digest: str,
) -> ExpertProfile:
    """An expert's record from the questions at these places that it answered."""
    answered = [place for place in places if not matrix.failed[expert][place]]
    earned = [float(matrix.right[expert][place]) for place in answered]
    needed = [skills[place] for place in answered]
    tokens = matrix.spent[expert] / max(sum(not failed for failed in matrix.failed[expert]), 1)
    today = date.today().isoformat()
    idents = [identity(matrix.questions[place].question) for place in answered]
    return build_profile(expert, needed, earned, LEAST_QUESTIONS, every_topic, tokens, weights, today, digest, idents)


def onboard(
    joined: Assembly,
    newcomer: str,
    profiles: Profiles,
    questions: Sequence[Question],
    count: int,
    labelled: bool,
    watch: Watch = UNWATCHED,
) -> tuple[ExpertProfile, dict[str, float]]:
    """A newcomer's record from `count` of the questions, and its likeness to each expert of `profiles`.

    `joined` is the pool with the newcomer in it. Without labels an answer earns the share of the pool's weight that
    agrees with it.
    """
    skills = tag_questions(joined, questions)
    chosen = diverse_questions(skills, count)
    chosen_questions, chosen_skills = [questions[i] for i in chosen], [skills[i] for i in chosen]
    everyone = [newcomer] if labelled else [newcomer, *profiles.experts]
    matrix = run_matrix(
        joined.executor, everyone, joined.models, chosen_questions, joined.pool.sampling, watch, joined.pool.most_tokens
    )
    if labelled:
        earned = [float(right) for right in matrix.right[newcomer]]
    else:
        earned = _agreement(joined, newcomer, profiles, matrix, chosen_skills)
    profile = build_profile(
        newcomer,
        chosen_skills,
        earned,
        tokens=matrix.spent[newcomer] / len(chosen_questions),
        fingerprint=expert_fingerprint(joined.pool, newcomer),
        date=date.today().isoformat(),
        idents=[identity(question.question) for question in chosen_questions],
    )
    alike = likeness(profiles, chosen_skills, earned)
    return borrow(profile, profiles, alike), alike


def _recorded(questions: Sequence[Question], skills: Sequence[Skills]) -> dict[str, RecordedQuestion]:
    return recorded([each.question for each in questions], [each.family for each in questions], skills)


def _agreement(
    joined: Assembly, newcomer: str, profiles: Profiles, matrix: Matrix, needed: Sequence[Skills]
) -> list[float]:
    """What the newcomer's answers earn by agreeing with the pool, each expert weighing its share of a recruitment."""
    queries = [as_query(question, joined.pool.sampling) for question in matrix.questions]
    shares = [r.shares for r in PosteriorRecruiter(profiles).recruit(queries, needed, 1, 0)]
    read = {
        expert: [extract(text, query.kind, query.text) for text, query in zip(texts, queries, strict=True)]
        for expert, texts in matrix.texts.items()
    }
    others = [[(read[expert][i], share) for expert, share in by_expert.items()] for i, by_expert in enumerate(shares)]
    return earned_by_agreement(read[newcomer], others)


def annotate(
    assembly: Assembly, annotator: str, questions: Sequence[str], seed: int, watch: Watch = UNWATCHED
) -> list[tuple[str, ...]]:
    """The keywords of each question, empty if the passes agreed on none."""
    queries = annotation_queries(questions, seed)
    single_recruitments = [
        Recruitment(query.id, (Assignment(query.id, annotator, 0),), {annotator: 1.0}) for query in queries
    ]
    refusals = assembly.executor.refuse(queries, annotator)
    steps = plan(
        [query for query, refusal in zip(queries, refusals, strict=True) if refusal is None],
        [recruitment for recruitment, refusal in zip(single_recruitments, refusals, strict=True) if refusal is None],
        assembly.models,
    )
    texts = {candidate.query_id: candidate.text for candidate in gathered(assembly.executor, steps, watch)}
    return [keywords_of([texts.get(f"{n}/{turn}", "") for turn in range(PASSES)]) for n in range(len(questions))]
