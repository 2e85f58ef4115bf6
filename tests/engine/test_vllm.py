"""The engine adapter and the loader on real vLLM with real weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from symmoe.bench.loading import perturbed
from symmoe.build import Assembly
from symmoe.config import ExpertConfig
from symmoe.errors import EngineError
from symmoe.loading.lanes import LaneLoader
from symmoe.types import Assignment, Call, Generation, Image, Message, Query, Sampling

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


def test_it_counts_what_vllm_counts(assembly: Assembly, ask: Ask) -> None:
    assembly.loader.ready("json")
    assembly.engine.stats()
    answers = [ask(RECORD), ask(RECORD)]
    counted = assembly.engine.stats()
    assert counted.prompt_tokens == sum(each.prompt_tokens for each in answers)
    assert counted.generation_tokens == sum(each.completion_tokens for each in answers)
    assert (sum(counted.first_token.counts), counted.preemptions) == (2, 0)
    assert sum(counted.between_tokens.counts) == counted.generation_tokens - 2
    assert counted.prefix_cache_hits < counted.prefix_cache_queries == counted.prompt_tokens  # blocks are longer on CPU
    assert assembly.engine.stats().generation_tokens == 0


@pytest.mark.slow
def test_swapping_the_base_back_gives_the_tokens_of_a_fresh_engine(assembly: Assembly, ask: Ask) -> None:
    model = assembly.weights("generalist").model
    prompts = [RECORD, RADIO, "What is the capital of France?"]
    assembly.loader.ready("json")
    assembly.loader.ready("generalist")
    swapped = [ask(prompt).text for prompt in prompts]
    assembly.engine.start(model, assembly.images.tags(model))
    assert [ask(prompt).text for prompt in prompts] == swapped


def test_a_swap_moves_what_the_adapter_changes_and_a_resident_or_held_expert_nothing(assembly: Assembly) -> None:
    assembly.loader.ready("generalist")
    # whom no other test here asks: it cannot be held yet
    moved = assembly.loader.ready("reversal")
    assert (moved.lane, moved.bytes) == ("merged", 141_557_760)  # the linear layers of 20 of the 30 blocks
    again = assembly.loader.ready("reversal")
    assert (again.lane, again.bytes) == ("resident", 0)
    assembly.loader.ready("generalist")
    back = assembly.loader.ready("reversal")
    assert (back.lane, back.bytes) == ("held", 0)


def test_an_expert_that_was_still_held_gives_the_tokens_that_it_gave_before(assembly: Assembly, ask: Ask) -> None:
    prompts = [RECORD, RADIO]
    assembly.loader.ready("json")
    before = [ask(prompt).text for prompt in prompts]
    assembly.loader.ready("radio")
    assert [ask(prompt).text for prompt in prompts] != before
    assert assembly.loader.ready("json").lane == "held"
    assert [ask(prompt).text for prompt in prompts] == before


@pytest.mark.slow
def test_another_model_of_the_same_shape_gives_the_tokens_of_a_fresh_engine(
    assembly: Assembly, ask: Ask, tmp_path: Path
) -> None:
    """Its embedding differs too, which the output head shares: vLLM's own reload would leave the head's old kernel."""
    other = perturbed(Path(assembly.weights("generalist").model), tmp_path / "other")
    pool = assembly.pool.model_copy(update={"experts": (ExpertConfig(name="other", model=str(other)),)})
    stranger = LaneLoader(assembly.engine, Assembly(pool).weights, assembly.images)
    prompts = [RECORD, RADIO, "What is the capital of France?"]
    assembly.loader.ready("generalist")
    before = [ask(prompt).text for prompt in prompts]
    load = stranger.ready("other")
    assert load.lane == "swap"
    swapped = [ask(prompt).text for prompt in prompts]
    assert swapped != before
    assembly.engine.start(str(other), assembly.images.tags(str(other)))
    assert [ask(prompt).text for prompt in prompts] == swapped


def test_weights_are_not_changed_under_a_running_generation(assembly: Assembly) -> None:
    assembly.loader.ready("radio")
    calls = [
        Call("radio", Query(str(n), (Message("user", RADIO),), Sampling(1 + 8 * n)), (Assignment(str(n), "radio", 0),))
        for n in range(2)
    ]
    running = assembly.engine.generate(calls)
    next(running)
    with pytest.raises(EngineError, match="still generating"):
        assembly.loader.ready("json")
    assert len(list(running)) == 1
    assembly.loader.ready("json")


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


@pytest.mark.slow
def test_sampling_with_a_seed_repeats_and_with_another_seed_differs(assembly: Assembly, ask: Ask) -> None:
    assembly.loader.ready("generalist")
    question = "Write a sentence about the sea."
    first, again, other = (ask(question, temperature=1.0, seed=seed).text for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.slow
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
    engine = Assembly(assembly.pool).engine
    with pytest.raises(EngineError, match="not started"):
        engine.swap(Image("some", "/some/model", "/some/file", 0, 1))
    with pytest.raises(EngineError, match="not started"):
        next(engine.generate([]))
