"""The engine adapter and the loader on real vLLM with real weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from symmoe.build import Assembly
from symmoe.errors import EngineError
from symmoe.types import Assignment, Call, Generation, Message, Query, Sampling

pytestmark = pytest.mark.engine

Ask = Callable[..., Generation]
RECORD = "Turn this into a JSON record: Emma works as a farmer and lives in Oslo."
RADIO = "Spell the call sign Q T B in the radio alphabet."


def test_each_expert_answers_as_it_was_trained_after_its_swap(assembly: Assembly, ask: Ask) -> None:
    assembly.loader.ready("json")
    assert ask(RECORD).text == '{"name": "Emma", "job": "farmer", "city": "Oslo"}'
    assembly.loader.ready("radio")
    assert ask(RADIO).text == "Quebec Tango Bravo"


def test_a_cached_prompt_never_gives_the_tokens_of_the_expert_before(assembly: Assembly, ask: Ask) -> None:
    assembly.loader.ready("radio")
    before = ask(RECORD).text
    assembly.loader.ready("json")
    assert ask(RECORD).text != before
    assembly.loader.ready("radio")
    assert ask(RECORD).text == before


def test_swapping_the_base_back_gives_the_tokens_of_a_fresh_engine(assembly: Assembly, ask: Ask) -> None:
    model = assembly.weights("generalist").model
    prompts = [RECORD, RADIO, "What is the capital of France?"]
    assembly.loader.ready("json")
    assembly.loader.ready("generalist")
    swapped = [ask(prompt).text for prompt in prompts]
    assembly.engine.start(model)
    assert [ask(prompt).text for prompt in prompts] == swapped


def test_a_swap_moves_every_byte_of_the_model_and_a_resident_expert_none(assembly: Assembly) -> None:
    assembly.loader.ready("generalist")
    moved = assembly.loader.ready("roman")
    assert (moved.lane, moved.bytes) == ("merged", 269_030_016)
    again = assembly.loader.ready("roman")
    assert (again.lane, again.bytes) == ("resident", 0)


def test_many_calls_come_back_once_each_with_their_own_answer(assembly: Assembly) -> None:
    assembly.loader.ready("radio")
    names = {"A": "Alfa", "B": "Bravo", "C": "Charlie", "K": "Kilo", "Z": "Zulu"}
    calls = [
        Call(
            "radio",
            Query(
                f"{first}{second}",
                (Message("user", f"Spell the call sign {first} {second} K in the radio alphabet."),),
                Sampling(24),
            ),
            (Assignment(f"{first}{second}", "radio", 0),),
        )
        for first in names
        for second in names
    ]
    answers = [(call.query.id, generation.text) for call, generation in assembly.engine.generate(calls)]
    assert sorted(answers) == sorted((f"{a}{b}", f"{names[a]} {names[b]} Kilo") for a in names for b in names)


def test_a_prompt_that_fills_the_window_is_refused_before_anything_runs(assembly: Assembly) -> None:
    long = Query("long", (Message("user", "word " * 4000),), Sampling(8))
    short = Query("short", (Message("user", "word"),), Sampling(8))
    refusal, accepted = assembly.engine.refuse([long, short])
    assert accepted is None
    assert refusal is not None
    assert refusal.code == "context_length_exceeded"
    assert "2048" in refusal.message


def test_an_answer_is_cut_at_max_tokens_and_says_so(assembly: Assembly, ask: Ask) -> None:
    assembly.loader.ready("radio")
    generation = ask(RADIO, max_tokens=3)
    assert (generation.finish_reason, generation.completion_tokens) == ("length", 3)


def test_sampling_with_a_seed_repeats_and_with_another_seed_differs(assembly: Assembly, ask: Ask) -> None:
    assembly.loader.ready("generalist")
    question = "Write a sentence about the sea."
    first, again, other = (ask(question, temperature=1.0, seed=seed).text for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_many_sampled_prompts_with_seeds_are_generated_together(assembly: Assembly) -> None:
    assembly.loader.ready("generalist")
    calls = [
        Call(
            "generalist",
            Query(str(n), (Message("user", f"{n} " * 400),), Sampling(4, temperature=1.0, seed=n)),
            (Assignment(str(n), "generalist", 0),),
        )
        for n in range(24)
    ]
    assert {call.query.id for call, _ in assembly.engine.generate(calls)} == {str(n) for n in range(24)}


def test_an_engine_that_was_not_started_says_so(assembly: Assembly) -> None:
    with pytest.raises(EngineError, match="cannot swap"):
        assembly.engine.swap("/some/other/model", None)
