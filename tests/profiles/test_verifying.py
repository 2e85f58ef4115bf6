"""Training a verifier on planted answers: it must find what tells right from wrong, and only where something does."""

from __future__ import annotations

import numpy as np
import pytest

from symmoe.aggregation.verifier import Verifying, names
from symmoe.errors import PoolError
from symmoe.profiles.believing import Recruited
from symmoe.profiles.grading import Matrix
from symmoe.profiles.verifying import GROWTH, _grown, _Rows, learn_verifier
from symmoe.routing.profile_files import as_document, parse_profiles
from symmoe.types import Assignment, Profiles, Recruitment
from tests.fakes import candidate, query, question

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
