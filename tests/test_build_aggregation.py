from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from symmoe.aggregation.consensus import Settled, fit_consensus, write_rule
from symmoe.build_aggregation import aggregator_last, aggregator_of, build_synthesis, build_vote, rule_files
from symmoe.config import AggregationConfig, EngineConfig, ExpertConfig, Pool
from symmoe.errors import PoolError
from symmoe.types import Consensus, ExpertProfile, Profiles, Tally
from tests.fakes import ScatteringEmbedder, query

EXPERTS = tuple(ExpertConfig(name=name, model="./m") for name in ("adder", "writer"))


def pool(root: Path = Path("."), **section: object) -> Pool:
    aggregation = AggregationConfig(**section)  # type: ignore[arg-type]
    return Pool(name="p", experts=EXPERTS, engine=EngineConfig(kind="echo"), aggregation=aggregation, root=root)


def unmeasured() -> Profiles:
    return Profiles({name: ExpertProfile(name, {}, Tally(1, 1)) for name in ("adder", "writer")})


def measured() -> Profiles:
    skilled = ExpertProfile("adder", {}, Tally(1, 1), aggregation={"number": Tally(9, 1)})
    wordy = ExpertProfile("writer", {}, Tally(1, 1), aggregation={"number": Tally(2, 8), "text": Tally(99, 1)})
    return Profiles({"adder": skilled, "writer": wordy})


@pytest.mark.parametrize("section", [{}, {"when": "always"}, {"aggregator": "writer", "when": "never"}])
def test_without_an_aggregator_that_may_be_asked_there_is_only_the_vote(section: dict[str, object]) -> None:
    assert build_synthesis(pool(**section), ScatteringEmbedder(), str, unmeasured) is None
    assert build_vote(pool(**section), ScatteringEmbedder()) is not None


def test_the_aggregator_of_the_pool_file_is_asked_for_every_query() -> None:
    synthesis = build_synthesis(pool(aggregator="writer", max_candidates=3), ScatteringEmbedder(), str, unmeasured)
    assert synthesis is not None
    assert synthesis.choose(query("anything")) == "writer"
    assert (synthesis.when, synthesis.window.most) == ("auto", 3)


def test_an_automatic_aggregator_is_whoever_is_best_on_record_for_the_kind_of_answer() -> None:
    described = pool(aggregator="auto")
    synthesis = build_synthesis(described, ScatteringEmbedder(), str, measured)
    assert synthesis is not None
    assert synthesis.choose(replace(query("1 + 1?"), kind="number")) == "adder"
    assert synthesis.choose(replace(query("why?"), kind="text")) == "writer"
    assert aggregator_of(described, measured) == "writer"


def test_an_automatic_aggregator_needs_records() -> None:
    with pytest.raises(PoolError, match="nobody's aggregation is on record"):
        build_synthesis(pool(aggregator="auto"), ScatteringEmbedder(), str, unmeasured)


def test_an_aggregator_that_the_pool_does_not_have_is_an_error() -> None:
    with pytest.raises(PoolError, match="has no expert 'scribe'"):
        build_synthesis(pool(aggregator="scribe"), ScatteringEmbedder(), str, unmeasured)


def test_a_fitted_rule_is_read_from_beside_the_pool_file(tmp_path: Path) -> None:
    fit = fit_consensus([Settled(Consensus(0.5, 0.1, 1.0, 2), 1.0, 1.0)] * 10)
    write_rule(tmp_path / "rule.json", fit)
    described = pool(tmp_path, aggregator="writer", rule="rule.json")
    synthesis = build_synthesis(described, ScatteringEmbedder(), str, unmeasured)
    assert synthesis is not None
    assert synthesis.rule.thresholds == fit.thresholds
    assert rule_files(described) == [tmp_path / "rule.json"]


def test_a_rule_that_cannot_be_read_is_an_error_even_where_it_is_not_used(tmp_path: Path) -> None:
    with pytest.raises(PoolError, match="cannot be read"):
        build_synthesis(
            pool(tmp_path, aggregator="writer", rule="none.json", when="never"), ScatteringEmbedder(), str, unmeasured
        )


def test_the_aggregator_s_model_comes_last_and_it_last_of_that_model() -> None:
    models = {"a": "one", "writer": "two", "b": "one", "c": "two"}
    assert list(aggregator_last("writer", models)) == ["a", "b", "c", "writer"]
    assert list(aggregator_last(None, models)) == list(models)


@pytest.mark.parametrize("section", [{"when": "often"}, {"max_candidates": 0}, {"similarity": 2}, {"judge": "writer"}])
def test_a_section_that_cannot_be_used_is_refused(section: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        pool(**section)
