from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import Any, get_args

import pytest

from symmoe.questions.families import FAMILIES
from symmoe.questions.splits import Split, draw, mixed_suite, split_of

SPLITS: tuple[Split, ...] = get_args(Split)


def take(family: str, split: Split, seed: int, most: int = 60) -> list[Any]:
    return list(islice(draw(family, split, seed), most))


@pytest.mark.parametrize("family", ["arithmetic", "dates", "json", "radio", "roman", "spanish"])
def test_no_text_stands_in_two_splits_whatever_the_seeds(family: str) -> None:
    texts = {split: {q.question for seed in (0, 1, 2) for q in take(family, split, seed)} for split in SPLITS}
    assert all(texts.values())
    assert not texts["train"] & texts["profile"]
    assert not texts["train"] & texts["test"]
    assert not texts["profile"] & texts["test"]


@pytest.mark.parametrize("family", list(FAMILIES))
def test_each_question_belongs_to_the_split_that_it_was_drawn_for(family: str) -> None:
    for split in SPLITS:
        assert {split_of(q.question) for q in take(family, split, 7, most=8)} == {split}


def test_no_seed_of_one_split_is_a_seed_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[str] = []

    class Recorded:
        def __init__(self, seed: str) -> None:
            seeds.append(seed)

    monkeypatch.setattr("symmoe.questions.splits.Random", Recorded)
    monkeypatch.setattr("symmoe.questions.splits.FAMILIES", {"roman": Broken()})
    for split in SPLITS:
        for seed in (0, 999_999):
            with pytest.raises(EOFError):
                next(draw("roman", split, seed))
    numbers = [int(seed.removeprefix("roman/")) for seed in seeds]
    assert numbers == sorted(set(numbers))


class Broken:
    def draw(self, rng: object) -> tuple[str, str]:
        raise EOFError


@pytest.mark.parametrize("seed", [-1, 1_000_000])
def test_a_seed_outside_the_range_of_its_split_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"not {seed}"):
        next(draw("roman", "train", seed))


def test_equal_seeds_draw_equal_questions_and_other_seeds_others() -> None:
    assert take("roman", "test", 3) == take("roman", "test", 3)
    assert take("roman", "test", 3) != take("roman", "test", 4)


def test_no_question_is_drawn_twice_and_no_id_is_given_twice() -> None:
    drawn = take("arithmetic", "train", 0, most=400)
    assert len({q.question for q in drawn}) == len({q.id for q in drawn}) == 400


def test_a_family_that_runs_dry_ends() -> None:
    drawn = list(draw("spanish", "test", 0))
    assert 60 < len(drawn) < 140
    assert len({q.question for q in drawn}) == len(drawn)


def test_about_four_texts_in_five_are_for_training() -> None:
    counts = Counter(split_of(f"text {number}") for number in range(5000))
    assert counts["train"] / 5000 == pytest.approx(0.8, abs=0.03)
    assert counts["profile"] / 5000 == pytest.approx(0.1, abs=0.02)


def test_a_mixed_suite_has_as_many_of_every_family_in_an_order_that_its_seed_decides() -> None:
    suite = mixed_suite(["roman", "spanish"], 5, "profile", 0)
    assert Counter(q.family for q in suite) == {"roman": 5, "spanish": 5}
    assert suite == mixed_suite(["roman", "spanish"], 5, "profile", 0)
    assert [q.family for q in suite] != ["roman"] * 5 + ["spanish"] * 5
