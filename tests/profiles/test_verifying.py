from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import symmoe.build
from symmoe.aggregation.verifier import Verifying, names
from symmoe.build import Assembly
from symmoe.config import read_pool
from symmoe.errors import PoolError
from symmoe.profiles.aggregators import (
    AggregationTask,
    AggregatorBench,
    aggregation_tasks,
    bench_aggregators,
    fenced,
    over_chance,
    references,
    tallied,
    with_aggregation,
)
from symmoe.profiles.believing import GROWTH, Recruited, _grown, _Rows, learn_verifier
from symmoe.profiles.marking import Matrix, is_right
from symmoe.routing.profile_files import as_document, parse_profiles, read_profiles, write_profiles
from symmoe.routing.profiles import merge
from symmoe.types import Assignment, ExpertProfile, Profiles, Question, Recruitment, Tally
from tests.conftest import SKILLS, echo_pool
from tests.fakes import NamingTagger, candidate, query, question

EXPERTS = ("a", "b", "c")
OPTIONS = "\n".join(f"{letter}. thing {letter}" for letter in "ABCDE")


def planted(n: int, telling: bool) -> tuple[Matrix, list[Recruited]]:
    """Questions of five options to three experts of 45 %; where texts are `telling`, who is wrong hedges."""
    rng = np.random.default_rng(5)
    asked = tuple(
        question(f"Which thing is number {i}?\n{OPTIONS}", str(rng.choice(list("ABCDE"))), ident=str(i))
        for i in range(n)
    )
    texts: dict[str, tuple[str, ...]] = {}
    right: dict[str, tuple[bool, ...]] = {}
    for expert in EXPERTS:
        knows = rng.random(n) < 0.45
        wrong = [str(rng.choice([letter for letter in "ABCDE" if letter != each.answer])) for each in asked]
        hedge = np.where(knows | (not telling), "It is clear.", "It might be the closest, however.")
        said = [each.answer if known else other for each, known, other in zip(asked, knows, wrong, strict=True)]
        texts[expert] = tuple(f"{h} The answer is ({letter})." for h, letter in zip(hedge, said, strict=True))
        right[expert] = tuple(knows.tolist())
    accuracies = dict.fromkeys(EXPERTS, 0.45)
    recruited = [
        Recruited(
            i,
            query(each.question, each.id),
            Recruitment(each.id, tuple(Assignment(each.id, e, 0) for e in EXPERTS), accuracies, accuracies),
        )
        for i, each in enumerate(asked)
    ]
    return Matrix(asked, right, 0.0, dict.fromkeys(EXPERTS, 0), texts), recruited


def test_a_verifier_learns_to_choose_the_answer_that_does_not_hedge() -> None:
    matrix, recruited = planted(600, telling=True)
    trees = learn_verifier(matrix, recruited, 3, 0)
    assert trees is not None
    asked = query(f"Which thing is number 9000?\n{OPTIONS}")
    said = [
        candidate("a", "It might be the closest, however. The answer is (A)."),
        candidate("b", "It is clear. The answer is (B)."),
    ]
    hedged, sure = (verdict.weight for verdict in Verifying(trees).weigh(asked, said, recruited[0].recruitment))
    assert hedged < 0.2 < 0.8 < sure
    assert learn_verifier(matrix, recruited, 3, 0) == trees


def test_where_nothing_tells_right_from_wrong_the_vote_stays() -> None:
    assert learn_verifier(*planted(600, telling=False), 3, 0) is None


def test_few_questions_train_no_verifier() -> None:
    assert learn_verifier(*planted(150, telling=True), 3, 0) is None


def test_trees_judge_as_scikit_learn_does_also_what_is_unknown_and_after_a_profile_file() -> None:
    from sklearn.ensemble import HistGradientBoostingClassifier

    rng = np.random.default_rng(3)
    known = rng.normal(size=(900, len(names(EXPERTS))))
    known[rng.random(known.shape) < 0.2] = np.nan
    known[:, 4] = 1.0  # constant: left out in training
    right = np.nan_to_num(known[:, 0]) + np.nan_to_num(known[:, 20] ** 2) > rng.normal(size=900)
    rows = _Rows(known, right, np.zeros(900), np.arange(900), np.full(900, 3))
    trees = _grown(rows, EXPERTS, 7)
    assert trees is not None
    theirs = HistGradientBoostingClassifier(**GROWTH, random_state=7)
    theirs.fit(np.delete(known, 4, axis=1), right)
    fresh = rng.normal(size=(200, known.shape[1]))
    fresh[rng.random(fresh.shape) < 0.3] = np.nan
    expected = theirs.predict_proba(np.delete(fresh, 4, axis=1))[:, 1]
    assert Verifying(trees).probabilities(fresh) == pytest.approx(expected, abs=1e-4)
    document = as_document(Profiles({}, verifier=trees), {})
    assert parse_profiles(document, "p").verifier == trees
    for column, wrong in (("left", "0 " * len(trees.left)), ("roots", "-1"), ("value", "nan"), ("feature", "x")):
        with pytest.raises(PoolError, match="verifier"):
            parse_profiles(document | {"verifier": document["verifier"] | {column: wrong}}, "p")


def matrix(questions: list[Question], **texts: tuple[str, ...]) -> Matrix:
    right = {e: tuple(is_right(t, q) for t, q in zip(own, questions, strict=True)) for e, own in texts.items()}
    return Matrix(tuple(questions), right, 1.0, dict.fromkeys(texts, 1), texts)


SUMS = [question(f"{n} + 1?", f"{n + 1}", "sums", "number", ident=f"s{n}") for n in range(5)]


def test_candidates_are_what_experts_wrote_where_they_wrote_enough() -> None:
    (task,) = aggregation_tasks(matrix(SUMS[:1], a=("It is 1.",), b=("7",), c=("8",), d=("7!",)), 0)
    assert task.candidates[task.right] == "It is 1."
    wrong = [text for n, text in enumerate(task.candidates) if n != task.right]
    assert len(wrong) == 2
    assert "8" in wrong  # `7` and `7!` say the same
    assert task.made == ()


def test_what_experts_do_not_give_is_made_of_right_answers_to_questions_of_the_family() -> None:
    tasks = aggregation_tasks(matrix(SUMS, a=("99",) * 5), 0)
    assert len(tasks) == 5
    for task in tasks:
        assert task.candidates[task.right] == task.question.answer
        assert "99" in task.candidates
        made = [task.candidates[place] for place in task.made]
        assert len(made) == 2
        assert set(made) <= {q.answer for q in SUMS}


@pytest.mark.parametrize("seed", range(20))
def test_one_candidate_is_right_two_are_wrong_and_no_two_say_the_same(seed: int) -> None:
    words = ("1", "2", "3", "the answer is 2", "x", "")
    texts = {name: tuple(words[(n * k + seed) % 6] for n in range(5)) for k, name in enumerate("abcd", start=1)}
    for task in aggregation_tasks(matrix(SUMS, **texts), seed):
        right = [is_right(text, task.question) for text in task.candidates]
        assert right.count(True) == 1
        assert right.index(True) == task.right
        assert len({text.strip().casefold() for text in task.candidates}) == 3
        assert all(task.candidates)


def test_the_right_candidate_stands_in_every_place() -> None:
    questions = [question(f"{n}?", f"{n}", "sums", "number", ident=f"{n}") for n in range(60)]
    places = [task.right for task in aggregation_tasks(matrix(questions, a=("99",) * 60), 0)]
    assert all(places.count(place) > 10 for place in range(3))
    assert aggregation_tasks(matrix(questions, a=("99",) * 60), 0) == aggregation_tasks(
        matrix(questions, a=("99",) * 60), 0
    )


def test_a_question_without_two_different_wrong_answers_gives_no_task() -> None:
    yes = [question(f"{n}?", "Yes", "logic", "choice", ident=f"{n}") for n in range(3)]
    assert aggregation_tasks(matrix(yes, a=("No",) * 3, b=("Yes",) * 3), 0) == []
    assert len(aggregation_tasks(matrix(yes, a=("No",) * 3, b=("Perhaps",) * 3), 0)) == 3


def test_a_known_answer_that_cannot_be_read_gives_no_task() -> None:
    assert aggregation_tasks(matrix([question("1?", "none", "x", "number")], a=("1",), b=("2",), c=("3",)), 0) == []


def test_answers_are_counted_by_kind() -> None:
    number, text = AggregationTask(SUMS[0], ("1", "2", "3"), 0), AggregationTask(question("?", "x"), ("x", "y", "z"), 0)
    found = tallied([number, number, text], ["1", "5", "x"])
    assert found == {"number": Tally(1, 1), "text": Tally(1, 0)}
    assert over_chance(found["number"]) == pytest.approx(100 / 2 - 100 / 3)
    assert over_chance(Tally(0, 0)) == 0


def profiles(**kinds: dict[str, Tally]) -> Profiles:
    return Profiles({name: ExpertProfile(name, {}, Tally(1, 1), aggregation=own) for name, own in kinds.items()})  # type: ignore[arg-type]


def test_aggregation_skills_survive_a_file_and_files_without_them_are_read(tmp_path: Path) -> None:
    known = profiles(a={"text": Tally(8, 2), "number": Tally(0, 3)}, b={})
    write_profiles(tmp_path / "p.json", known, {})
    assert read_profiles(tmp_path / "p.json") == known
    document = as_document(known, {})
    assert document["format"] == 2
    assert document["experts"]["a"]["aggregation"] == {"text": [8, 2], "number": [0, 3]}
    assert "aggregation" not in document["experts"]["b"]
    assert parse_profiles(document, "here") == known


def test_merging_records_keeps_aggregation_skills() -> None:
    skilled, plain = profiles(a={"text": Tally(8, 2)}), profiles(a={})
    assert merge(skilled, plain).experts["a"].aggregation == {"text": Tally(8, 2)}
    assert merge(plain, skilled).experts["a"].aggregation == {"text": Tally(8, 2)}


def test_measured_skills_replace_earlier_ones_and_leave_the_rest_of_a_record() -> None:
    bench = AggregatorBench((), {"a": {"text": Tally(1, 0)}, "new": {"text": Tally(0, 1)}}, 0)
    known = with_aggregation(profiles(a={"number": Tally(5, 5)}, b={"text": Tally(3, 0)}), bench)
    assert known.experts["a"].aggregation == {"text": Tally(1, 0)}
    assert known.experts["a"].overall == Tally(1, 1)
    assert known.experts["b"].aggregation == {"text": Tally(3, 0)}
    assert known.experts["new"].aggregation == {"text": Tally(0, 1)}


@pytest.mark.parametrize("wording", [fenced, references])
def test_an_aggregator_reads_the_question_and_every_text(wording: object) -> None:
    asked = wording(query("Which one?"), ["first", "<think>hm</think>second", "third"], 2048)  # type: ignore[operator]
    said = "\n".join(message.content for message in asked.messages)
    assert all(words in said for words in ("Which one?", "first", "second", "third"))
    assert "hm</think>" not in said


def test_where_the_fences_do_not_fit_the_texts_are_cut_alike() -> None:
    asked = fenced(query("Which one?"), ["7" * 900, "8" * 900], 100)
    assert asked.messages[0].role == "system"
    assert [asked.messages[0].content.count(digit) for digit in "78"] == [100, 100]


def test_every_expert_is_set_every_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symmoe.build, "build_tagger", lambda *_: NamingTagger(*SKILLS))
    assembly = Assembly(read_pool(str(echo_pool(tmp_path, engine={"max_model_len": 4096}))))
    measured = bench_aggregators(assembly, SUMS, 0)
    assert len(measured.tasks) + measured.left_out == len(SUMS)
    assert set(measured.skills) == {"adder", "speaker", "sorter"}
    assert all(sum(t.asked for t in kinds.values()) == len(measured.tasks) for kinds in measured.skills.values())
