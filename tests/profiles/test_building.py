from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path

import pytest

from symmoe.build import Assembly, expert_fingerprint, stale_experts
from symmoe.config import Pool, SamplingConfig, read_pool
from symmoe.engines.echo import EchoEngine
from symmoe.errors import EngineError
from symmoe.profiles.building import LEAST_QUESTIONS, annotate, evidence_digest, profile_pool, tag_questions
from symmoe.profiles.marking import as_query
from symmoe.routing.keywords import PASSES
from symmoe.types import Call, Generation, Profiles, Question, Tally
from tests.conftest import SKILLS, echo_pool
from tests.fakes import NamingTagger, question

NAMES = ("adder", "speaker", "sorter")
QUESTIONS = [
    *(question(f"sums {n}", f"adder: sums {n}", ident=f"a{n}") for n in range(4)),
    *(question(f"spanish {n}", f"speaker: spanish {n}", ident=f"b{n}") for n in range(3)),
    *(question(f"sorting {n}", f"sorter: sorting {n}", ident=f"c{n}") for n in range(2)),
]


class RecordingEngine(EchoEngine):
    """An echo engine that keeps whom it was asked for, and fails when it comes to `breaks_at`."""

    def __init__(self, breaks_at: str = "") -> None:
        super().__init__()
        self.breaks_at = breaks_at
        self.experts: list[str] = []

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        self.experts += dict.fromkeys(call.expert for call in calls)
        for call, generation in super().generate(calls):
            if call.expert == self.breaks_at:
                raise EngineError("the engine died")
            yield call, generation


class Bench:
    """One pool of echo experts, profiled as often as one likes."""

    def __init__(self, folder: Path, **routing: object) -> None:
        self.pool: Pool = read_pool(str(echo_pool(folder, routing=routing)))
        self.saved: list[Profiles] = []
        self.engine = RecordingEngine()

    def profile(self, known: Profiles | None = None, breaks_at: str = "") -> Profiles:
        self.engine, self.saved = RecordingEngine(breaks_at), []
        assembly = Assembly(self.pool, tagger=NamingTagger(*SKILLS))
        assembly.engine = self.engine
        tagged = tag_questions(assembly, QUESTIONS)
        return profile_pool(assembly, QUESTIONS, tagged, known or Profiles({}), self.saved.append)

    def retrain(self, expert: str, content: bytes) -> None:
        folder = self.pool.root / expert
        folder.mkdir(exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(content)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_each_expert_is_on_record_for_what_it_answered_rightly_and_wrongly(bench: Bench) -> None:
    found = bench.profile().experts
    assert list(found) == bench.engine.experts == list(NAMES)
    assert found["adder"].skills["sums"] == Tally(4, 0)
    assert found["adder"].skills["spanish"] == Tally(0, 3)
    assert found["speaker"].skills["sums"] == Tally(0, 4)
    assert found["speaker"].skills["spanish"] == Tally(3, 0)
    assert [found[name].overall for name in NAMES] == [Tally(4, 5), Tally(3, 6), Tally(2, 7)]


def test_a_skill_that_fewer_questions_than_the_least_need_is_not_on_record(bench: Bench) -> None:
    assert LEAST_QUESTIONS == 3
    assert all(set(record.skills) == {"sums", "spanish"} for record in bench.profile().experts.values())


def test_a_record_bears_its_tokens_the_weights_that_earned_it_and_the_day(bench: Bench) -> None:
    for name, record in bench.profile().experts.items():
        assert record.tokens == 3.0
        assert record.fingerprint == expert_fingerprint(bench.pool, name)
        assert date.fromisoformat(record.date) <= date.today()


def test_the_state_is_saved_after_each_expert(bench: Bench) -> None:
    found = bench.profile()
    assert [tuple(state.experts) for state in bench.saved] == [NAMES[:1], NAMES[:2], NAMES]
    assert bench.saved[-1] == found


def test_an_interruption_costs_the_answers_of_one_expert_and_what_was_saved_is_gone_on_from(bench: Bench) -> None:
    with pytest.raises(EngineError):
        bench.profile(breaks_at="sorter")
    (*_, saved) = bench.saved
    assert tuple(saved.experts) == NAMES[:2]
    resumed = bench.profile(saved)
    assert bench.engine.experts == ["sorter"]
    assert resumed == bench.profile()


def test_nobody_is_asked_again_under_the_same_weights(bench: Bench) -> None:
    found = bench.profile()
    assert bench.profile(found) == found
    assert (bench.engine.experts, bench.engine.started, bench.saved) == ([], 0, [])


def test_only_the_expert_whose_weights_changed_is_asked_again(bench: Bench) -> None:
    found = bench.profile()
    bench.retrain("speaker", b"first")
    assert stale_experts(bench.pool, found) == ["speaker"]
    once = bench.profile(found)
    assert bench.engine.experts == ["speaker"]
    bench.retrain("speaker", b"other")
    assert stale_experts(bench.pool, once) == ["speaker"]
    twice = bench.profile(once)
    assert bench.engine.experts == ["speaker"]
    assert stale_experts(bench.pool, twice) == []
    assert len({run.experts["speaker"].fingerprint for run in (found, once, twice)}) == 3
    assert list(twice.experts) == list(NAMES)


def test_weights_written_again_with_the_same_bytes_are_the_same_weights(bench: Bench) -> None:
    bench.retrain("speaker", b"first")
    found = bench.profile()
    bench.retrain("speaker", b"first")
    assert stale_experts(bench.pool, found) == []


def test_a_record_that_names_no_weights_is_never_stale_and_yet_earned_again(bench: Bench) -> None:
    unnamed = Assembly(bench.pool).profiles()
    assert stale_experts(bench.pool, unnamed) == []
    bench.profile(unnamed)
    assert bench.engine.experts == list(NAMES)


def test_the_records_come_in_the_order_of_the_pool_and_of_its_experts_only(bench: Bench, tmp_path: Path) -> None:
    found = bench.profile()
    known = Profiles({name: found.experts[name] for name in reversed(NAMES)})
    assert list(bench.profile(known).experts) == list(NAMES)
    smaller = Bench(tmp_path / "smaller")
    smaller.pool = smaller.pool.model_copy(update={"experts": smaller.pool.experts[:2]})
    assert list(smaller.profile(found).experts) == ["adder", "speaker"]
    assert smaller.engine.experts == []


@pytest.mark.parametrize("recruiter", ["symmoe", "published"])
def test_our_recruiter_counts_a_question_on_its_nearest_topic_and_the_published_ones_on_every_topic(
    tmp_path: Path, recruiter: str
) -> None:
    bench = Bench(tmp_path, recruiter=recruiter)
    assembly = Assembly(bench.pool, tagger=NamingTagger("sums", "spanish"))
    assembly.engine = RecordingEngine()
    both = [question(f"spanish sums {n}", "x", ident=str(n)) for n in range(3)]
    found = profile_pool(assembly, both, tag_questions(assembly, both), Profiles({}), lambda state: None)
    assert set(found.experts["adder"].skills) == ({"sums"} if recruiter == "symmoe" else {"sums", "spanish"})


def digest(*questions: Question, skills: Sequence[str] = SKILLS) -> str:
    queries = [as_query(question, SamplingConfig()) for question in questions]
    return evidence_digest(questions, NamingTagger(*skills).tag(queries))


def test_evidence_is_told_by_its_questions_answers_scorers_and_skills_alone() -> None:
    first = question("sums 1", "2", ident="1")
    different = [
        digest(first),
        digest(question("sums 2", "2", ident="1")),
        digest(question("sums 1", "3", ident="1")),
        digest(question("sums 1", "2", scorer="number", ident="1")),
        digest(first, skills=["spanish"]),
        digest(first, first),
    ]
    assert len(set(different)) == len(different)
    assert digest(question("sums 1", "2", family="other", ident="2")) == digest(first)


class NamingEngine(EchoEngine):
    """Names `algebra` in every pass, and another word in each."""

    def __init__(self) -> None:
        super().__init__(window=4096)
        self.asked: list[tuple[str, int | None]] = []

    def generate(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Generation]]:
        for call in calls:
            self.asked.append((call.query.text, call.query.sampling.seed))
            yield call, Generation(f"Algebra, word {call.query.sampling.seed}, {'x' * 21}", "stop", 10, 5)


@pytest.fixture
def assembly(tmp_path: Path) -> Assembly:
    built = Assembly(read_pool(str(echo_pool(tmp_path))))
    built.engine = NamingEngine()
    return built


def test_a_keyword_is_kept_when_more_than_one_pass_gives_it_and_it_is_short(assembly: Assembly) -> None:
    assert annotate(assembly, "adder", ["Solve x = 1.", "Solve x = 2."], seed=0) == [("algebra",), ("algebra",)]


def test_every_question_is_asked_in_every_pass_each_of_its_own_seed_and_the_annotator_loaded_once(
    assembly: Assembly,
) -> None:
    annotate(assembly, "speaker", ["one", "two", "three"], seed=10)
    engine = assembly.engine
    assert isinstance(engine, NamingEngine)
    assert len(engine.asked) == len(set(engine.asked)) == 3 * PASSES
    assert len({seed for _, seed in engine.asked}) == PASSES
    assert engine.swaps <= 1


def test_a_question_that_the_annotator_cannot_take_has_no_keywords(assembly: Assembly) -> None:
    assembly.engine = EchoEngine(window=60)
    assert annotate(assembly, "adder", ["short", "long " * 100], seed=0)[1] == ()
