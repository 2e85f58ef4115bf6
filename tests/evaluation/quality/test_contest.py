from __future__ import annotations

from symmoe.evaluation.quality.spent import Spent, spent_on
from symmoe.types import Candidate
from tests.fakes import candidate

from .conftest import EXPERTS, Hall


def test_candidates_come_in_the_order_of_the_draws(hall: Hall) -> None:
    contest = hall.contest(questions=3)
    chosen = [[("sorter", 0), ("adder", 1)], [("adder", 0)], []]
    found, _ = contest.ask(contest.queries, chosen)
    assert [[(c.query_id, c.expert, c.slot) for c in mine] for mine in found] == [
        [("q0", "sorter", 0), ("q0", "adder", 1)], [("q1", "adder", 0)], [],
    ]  # fmt: skip


def test_what_is_spent_is_counted_exactly(hall: Hall) -> None:
    contest = hall.contest(lambda expert, call: "one two three", questions=3)
    _, spent = contest.ask_all(["adder", "sorter"])
    # three questions of two words to two experts, each answering three words
    assert (spent.calls, spent.prompt_tokens, spent.completion_tokens, spent.tokens) == (6, 12, 18, 30)
    assert spent.seconds > 0


def test_the_same_demand_is_generated_once_and_costs_the_same_again(hall: Hall) -> None:
    contest = hall.contest(questions=3)
    first = contest.ask_all(EXPERTS)
    calls = len(hall.engine.calls)
    assert contest.ask_all(EXPERTS) == first
    assert len(hall.engine.calls) == calls == 9


def test_every_expert_is_made_ready_once_for_all_questions(hall: Hall) -> None:
    contest = hall.contest(questions=5)
    contest.ask_all(EXPERTS)
    assert hall.engine.swaps == 3


def test_draws_of_one_expert_have_seeds_of_their_own_and_equal_settings(hall: Hall) -> None:
    contest = hall.contest(questions=2)
    contest.ask(contest.queries, [[("adder", 0), ("adder", 1)]] * 2)
    sampled = [call.query.sampling for _, call in hall.engine.calls]
    assert len({sampling.seed for sampling in sampled}) == 4
    assert {(s.temperature, s.max_tokens, s.top_p) for s in sampled} == {(0.7, 16, 1.0)}


def test_greedy_draws_of_one_expert_cost_one_call(hall: Hall) -> None:
    contest = hall.contest(lambda expert, call: "one", questions=2, temperature=0.0)
    found, spent = contest.ask(contest.queries, [[("adder", 0), ("adder", 1)]] * 2)
    assert [[c.text for c in mine] for mine in found] == [["one", "one"]] * 2
    assert (spent.calls, spent.completion_tokens) == (2, 2)


def test_warming_up_asks_every_expert_once(hall: Hall) -> None:
    assert hall.contest().warm_up() > 0
    assert hall.asked() == sorted(EXPERTS)
    assert {call.query.sampling.max_tokens for _, call in hall.engine.calls} == {1}


def test_shared_and_refused_candidates_cost_nothing() -> None:
    refused = Candidate("q", "a", 2, "", "error", 10, 0, "resident")
    counted = spent_on([candidate("a", "x"), candidate("a", "x", slot=1, shared=True), refused], 1.5)
    assert counted == Spent(1, 10, 5, 1.5)


def test_costs_add_up() -> None:
    assert Spent(1, 2, 3, 4.0) + Spent(10, 20, 30, 40.0) == Spent(11, 22, 33, 44.0)
