"""The ways of answering."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import pytest

from symmoe.bench.ways import (
    MOST_DRAWS,
    Spent,
    all_vote,
    best_single,
    best_single_hindsight,
    by_record,
    fixed_aggregator,
    mixture_of_agents,
    oracle,
    random_vote,
    rivals,
    self_consistency,
    self_mixture,
    symbolic_moe,
    symbolic_vote,
    symmoe,
)
from symmoe.types import Call, Candidate, ExpertProfile, Profiles, Tally
from tests.bench.conftest import EXPERTS, Hall
from tests.fakes import candidate


def profiles(aggregation: Mapping[str, Tally] | None = None, **overall: tuple[int, int]) -> Profiles:
    skills = aggregation or {}
    return Profiles(
        {
            name: ExpertProfile(name, {}, Tally(*pair), aggregation={"text": skills[name]} if name in skills else {})
            for name, pair in overall.items()
        }
    )


def number_of(call: Call) -> str:
    return call.query.text.split()[-1]


def test_experts_are_ranked_by_their_record_and_ties_keep_the_pools_order() -> None:
    assert by_record(profiles(a=(1, 9), b=(8, 2), c=(1, 9), d=(0, 0))) == ["b", "d", "a", "c"]


def test_the_fixed_aggregator_is_the_best_at_it_and_without_such_records_the_best_solver() -> None:
    assert fixed_aggregator(profiles(a=(1, 9), b=(8, 2))) == "b"
    skilled = {"a": Tally(9, 1), "b": Tally(2, 8)}
    assert fixed_aggregator(profiles(skilled, a=(1, 9), b=(8, 2))) == "a"


def test_the_best_single_expert_is_chosen_on_the_record(hall: Hall) -> None:
    given = best_single(hall.contest(questions=3))
    assert hall.asked() == ["adder"] * 3
    assert given.texts == tuple(f"adder: sums {n}" for n in range(3))
    assert given.spent.calls == 3


def test_in_hindsight_the_best_expert_is_the_one_right_most_often_and_only_its_calls_are_charged(hall: Hall) -> None:
    contest = hall.contest(lambda expert, call: number_of(call) if expert == "sorter" else "99", questions=3)
    given = best_single_hindsight(contest)
    assert given.texts == ("0", "1", "2")
    assert given.spent.calls == 3


def test_self_consistency_spends_the_budget_and_no_more_than_a_mean_answer_over_it(hall: Hall) -> None:
    given = self_consistency(hall.contest(lambda expert, call: "a b", questions=4), 30)
    # two tokens a draw: 15 draws, spread over four questions
    assert given.spent.completion_tokens == 30
    assert given.spent.calls == 15
    assert set(hall.asked()) == {"adder"}
    drawn = Counter(call.query.text for _, call in hall.engine.calls)
    assert sorted(drawn.values()) == [3, 4, 4, 4]
    assert len({call.query.sampling.seed for _, call in hall.engine.calls}) == 15


def test_self_consistency_draws_once_whatever_it_costs(hall: Hall) -> None:
    given = self_consistency(hall.contest(lambda expert, call: "a b", questions=4), 1)
    assert given.spent.calls == 4


def test_self_consistency_is_a_vote_over_its_draws(hall: Hall) -> None:
    turns: Counter[str] = Counter()

    def said(expert: str, call: Call) -> str:
        turns[call.query.text] += 1
        return ("7", "8", "8")[turns[call.query.text] - 1]

    given = self_consistency(hall.contest(said, questions=2), 6)
    assert given.texts == ("8", "8")


def test_self_consistency_stops_where_more_draws_change_nothing(hall: Hall) -> None:
    greedy = self_consistency(hall.contest(lambda expert, call: "a", questions=2, temperature=0.0), 1000)
    assert greedy.spent.calls == 2
    silent = self_consistency(hall.contest(lambda expert, call: "", questions=2), 1000)
    assert silent.spent.calls == 2
    endless = self_consistency(hall.contest(lambda expert, call: "a", questions=2), 10_000)
    assert endless.spent.calls == 2 * MOST_DRAWS


def test_a_random_vote_asks_k_distinct_experts_for_each_question(hall: Hall) -> None:
    given = random_vote(hall.contest(questions=6, k=2))
    asked: dict[str, set[str]] = {}
    for expert, call in hall.engine.calls:
        asked.setdefault(call.query.text, set()).add(expert)
    assert [len(experts) for experts in asked.values()] == [2] * 6
    assert given.spent.calls == 12
    assert len(set(map(frozenset, asked.values()))) > 1


def test_no_more_random_experts_are_drawn_than_there_are(hall: Hall) -> None:
    assert random_vote(hall.contest(questions=2, k=9)).spent.calls == 6


def test_all_experts_vote_one_vote_each(hall: Hall) -> None:
    contest = hall.contest(lambda expert, call: "1" if expert == "adder" else "2", questions=2)
    given = all_vote(contest)
    assert given.texts == ("2", "2")
    assert hall.asked() == sorted(EXPERTS * 2)
    assert given.spent.calls == 6


def test_moa_asks_all_and_then_the_aggregator_which_reads_them(hall: Hall) -> None:
    contest = hall.contest(lambda expert, call: f"{expert} on {call.query.messages[0].role}", questions=2)
    given = mixture_of_agents(contest)
    assert given.spent.calls == 2 * (3 + 1)
    assert given.texts == ("adder on system",) * 2
    (expert, call), *_ = (pair for pair in hall.engine.calls if pair[1].query.messages[0].role == "system")
    assert expert == "adder"
    assert all(f"{name} on user" in call.query.messages[0].content for name in EXPERTS)
    assert call.query.messages[-1].content.startswith("sums")


def test_moa_may_ask_only_those_of_the_best_record(hall: Hall) -> None:
    given = mixture_of_agents(hall.contest(questions=2), proposers=1)
    assert given.spent.calls == 2 * (1 + 1)
    assert set(hall.asked()) == {"adder"}


def test_moa_is_charged_for_proposals_that_the_vote_of_all_asked_before(hall: Hall) -> None:
    contest = hall.contest(questions=2)
    voted = all_vote(contest)
    mixed = mixture_of_agents(contest)
    assert mixed.spent.calls == voted.spent.calls + 2
    assert mixed.spent.completion_tokens > voted.spent.completion_tokens
    assert mixed.spent.seconds > voted.spent.seconds
    assert len(hall.engine.calls) == mixed.spent.calls


def test_self_moa_asks_one_expert_for_everything(hall: Hall) -> None:
    given = self_mixture(hall.contest(questions=2), 3)
    assert hall.asked() == ["adder"] * (2 * (3 + 1))
    assert given.spent.calls == 2 * (3 + 1)


def test_symbolic_moe_recruits_k_and_always_aggrescorers(hall: Hall) -> None:
    given = symbolic_moe(hall.contest(questions=3, k=2))
    # the record says that only the adder can do sums: drawn with replacement, it fills both slots, then aggregates
    assert given.spent.calls == 3 * (2 + 1)
    assert set(hall.asked()) == {"adder"}


def test_symbolic_moe_keeps_to_the_published_rule_whatever_the_pool_says(hall: Hall) -> None:
    ours = hall.contest(questions=3, routing={"recruiter": "symmoe", "top_p": 0.01})
    assert symbolic_moe(ours).spent.calls == 3 * (2 + 1)


def test_symbolic_vote_asks_no_aggregator(hall: Hall) -> None:
    given = symbolic_vote(hall.contest(questions=3, k=2))
    assert given.spent.calls == 3 * 2
    assert set(hall.asked()) == {"adder"}
    assert all(text.startswith("adder: ") for text in given.texts)


def test_symmoe_is_the_pipeline_of_the_pool(hall: Hall) -> None:
    given = symmoe(hall.contest(questions=3))
    assert all(text.startswith("adder: ") for text in given.texts)
    assert given.spent.calls == len(hall.engine.calls)
    said = sum(len(text.split()) for text in given.texts)
    assert given.spent.completion_tokens == said * given.spent.calls // 3
    assert given.spent.seconds > 0


def test_the_oracle_is_right_wherever_anyone_is(hall: Hall) -> None:
    clever = {"0": "adder", "1": "sorter", "2": "nobody"}
    contest = hall.contest(lambda e, call: number_of(call) if clever[number_of(call)] == e else "99", questions=3)
    assert oracle(contest).texts == ("0", "1", "99")


@pytest.mark.parametrize("name", list(rivals(10, None, 2)))
def test_every_way_answers_every_question_and_pays_for_it(hall: Hall, name: str) -> None:
    given = rivals(10, None, 2)[name](hall.contest(questions=3))
    assert len(given.texts) == 3
    assert all(given.texts)
    assert given.spent.calls >= 3
    assert min(given.spent.prompt_tokens, given.spent.completion_tokens) > 0


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


def test_what_was_prepared_is_not_asked_again_and_costs_each_way_what_it_would_alone(hall: Hall) -> None:
    alone = {name: way(hall.contest(questions=3)) for name, way in rivals(10, None, 2).items()}
    contest = hall.contest(questions=3)
    contest.prepare(2)
    calls = len(hall.engine.calls)
    for name in ("best_single", "best_single_hindsight", "random_vote", "all_vote", "symbolic_vote", "oracle"):
        rivals(10, None, 2)[name](contest)
    assert len(hall.engine.calls) == calls
    for name, way in rivals(10, None, 2).items():
        given = way(contest)
        assert given.texts == alone[name].texts
        assert replace(given.spent, seconds=0) == replace(alone[name].spent, seconds=0)


def test_shared_and_refused_candidates_cost_nothing(hall: Hall) -> None:
    refused = Candidate("q", "a", 2, "", "error", 10, 0, "resident")
    shared = candidate("a", "x", slot=1, shared=True)
    counted = hall.contest(questions=1).spent_on([candidate("a", "x"), shared, refused], 1.5)
    assert counted == Spent(1, 10, 5, 1.5)


def test_costs_add_up() -> None:
    assert Spent(1, 2, 3, 4.0) + Spent(10, 20, 30, 40.0) == Spent(11, 22, 33, 44.0)
