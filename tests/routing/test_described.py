"""Who is asked before anything is on record: whoever says that it can, else the fallback."""

from __future__ import annotations

import pytest

from symmoe.build import build_embedder
from symmoe.config import read_pool
from symmoe.questions.suites import everyday_suite, mixed_suite
from symmoe.routing.recruiters.described import DescribedRecruiter
from symmoe.types import Recruitment, Skills
from tests.fakes import query


@pytest.fixture(scope="module")
def recruiter() -> DescribedRecruiter:
    """The starter pool's experts, as they describe themselves."""
    pool = read_pool("starter")
    described = {expert.name: expert.description for expert in pool.experts}
    return DescribedRecruiter(build_embedder(pool), described, "generalist")


def recruited(recruiter: DescribedRecruiter, *texts: str, k: int = 3) -> list[Recruitment]:
    return recruiter.recruit([query(text) for text in texts], [Skills("q", ()) for _ in texts], k, 0)


def first(recruitment: Recruitment) -> str:
    return recruitment.assignments[0].expert


def test_who_describes_what_is_asked_comes_first(recruiter: DescribedRecruiter) -> None:
    asked = mixed_suite(6, "profile", 5)
    found = recruited(recruiter, *(each.question for each in asked))
    right = [first(each) == question.family for each, question in zip(found, asked, strict=True)]
    assert sum(right) / len(right) > 0.75


def test_everyday_questions_go_to_the_fallback(recruiter: DescribedRecruiter) -> None:
    found = recruited(recruiter, *(each.question for each in everyday_suite("profile")))
    assert sum(first(each) == "generalist" for each in found) / len(found) > 0.85


def test_shares_sum_to_one_and_as_many_are_asked_as_are_needed(recruiter: DescribedRecruiter) -> None:
    for found in recruited(recruiter, "Write 44 as a Roman numeral.", "hello", "", k=2):
        assert sum(found.shares.values()) == pytest.approx(1)
        assert list(found.shares.values()) == sorted(found.shares.values(), reverse=True)
        assert 1 <= len(found.assignments) <= 2
        assert [a.expert for a in found.assignments] == list(found.shares)[: len(found.assignments)]


def test_without_a_fallback_the_nearest_is_asked() -> None:
    pool = read_pool("starter")
    alone = DescribedRecruiter(build_embedder(pool), {"cook": "Recipes and cooking.", "lawyer": "Laws and courts."})
    assert [first(each) for each in recruited(alone, "How long do I boil an egg?", "May my landlord do that?")] == [
        "cook",
        "lawyer",
    ]


def test_an_explanation_says_that_descriptions_decided(recruiter: DescribedRecruiter) -> None:
    told = recruiter.explain(query("Write 44 as a Roman numeral."), Skills("q", ()), 3, 0)
    assert (told.recruiter, told.standings[0].expert, told.standings[0].chosen) == ("described", "roman", True)
    assert "profile build" in told.note
