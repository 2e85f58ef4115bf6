"""A pool that answers from records: every stage runs as it does on a model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from symmoe.build import Assembly, check_weights, fingerprint
from symmoe.config import Pool, read_pool
from symmoe.engines.echo import RecordedEngine
from symmoe.errors import PoolError, RecordsError
from symmoe.pipeline import answer
from symmoe.policy import Policy
from symmoe.records.files import Records, write_records
from symmoe.types import Assignment, Call, Query, Sampling, Trace

from ..cli.conftest import Symmoe
from ..cli.conftest import symmoe_command as symmoe_command
from ..conftest import SKILLS, echo_pool
from ..fakes import NamingTagger, ScatteringEmbedder
from .conftest import EXPERTS, recorded

SAMPLING = Sampling(16)


def queries(records: Records) -> list[Query]:
    return [Query(question.id, question.messages, SAMPLING) for question in records.questions]


def assembled(pool: Pool) -> Assembly:
    return Assembly(pool, tagger=NamingTagger(*SKILLS), embedder=ScatteringEmbedder())


def test_each_question_gets_what_its_expert_answered(pool_file: Path, records: Records) -> None:
    outcome = answer(assembled(read_pool(str(pool_file))).parts(), queries(records), Policy(1), seed=0)
    for question, trace in zip(records.questions, outcome.results, strict=True):
        assert isinstance(trace, Trace)
        assert trace.answer.text == "The answer is (A)."
        (said,) = trace.candidates
        given = records.answers[said.expert][question.id]
        assert (said.text, said.completion_tokens, said.prompt_tokens) == (given.text, given.completion_tokens, 20)
    assert len(outcome.loads) == 3


def test_several_experts_vote_as_they_would_on_an_engine(pool_file: Path, records: Records) -> None:
    policy = Policy(3, aggregate="always", full=True)
    outcome = answer(assembled(read_pool(str(pool_file))).parts(), queries(records), policy, seed=0)
    for trace in outcome.results:
        assert isinstance(trace, Trace)
        assert {vote.answer: len(vote.experts) for vote in trace.answer.votes} == {"A": 1, "B": 2}


def test_what_is_not_on_record_has_no_say_and_streams_as_nothing() -> None:
    records = recorded(3).part(["q0", "q1"])
    engine = RecordedEngine(records)
    engine.start("adder", {})
    unknown = queries(recorded(3))[2]
    call = Call("adder", unknown, (Assignment(unknown.id, "adder", 0),))
    ((_, generation),) = engine.generate([call])
    assert (generation.text, generation.finish_reason) == ("", "error")
    assert engine.add("one", unknown, stream=True) is None
    assert [(delta.text, delta.generation) for delta in engine.step()] == [("", generation)]


def test_the_pieces_of_a_stream_add_up_to_the_recorded_text() -> None:
    records = recorded(1)
    engine = RecordedEngine(records)
    engine.start("adder", {})
    engine.add("one", queries(records)[0], stream=True)
    pieces = []
    while deltas := engine.step():
        pieces += [delta.text for delta in deltas]
    assert "".join(pieces) == "The answer is (A)."


def test_a_pool_names_records_and_its_experts_must_be_in_them(pool_file: Path, directory: Path) -> None:
    pool = read_pool(str(pool_file))
    check_weights(pool)
    missing = pool.model_copy(update={"experts": (*pool.experts, pool.experts[0].model_copy(update={"name": "x"}))})
    with pytest.raises(RecordsError, match="no answers of x"):
        check_weights(missing)
    text = pool_file.read_text().replace("kind: recorded", "kind: echo")
    pool_file.write_text(text)
    with pytest.raises(PoolError, match="kind recorded and a directory of records go together"):
        read_pool(str(pool_file))


def test_other_records_are_another_pool(pool_file: Path, directory: Path) -> None:
    pool = read_pool(str(pool_file))
    before = fingerprint(pool)
    write_records(directory, recorded(9))
    assert fingerprint(pool) != before


def test_profiles_come_from_records_without_asking(
    symmoe_command: Symmoe, pool_file: Path, directory: Path, tmp_path: Path
) -> None:
    said = symmoe_command("profile", "build", "--pool", pool_file, "-o", tmp_path / "built.json", "--json")
    assert said.code == 0, said.err
    assert said.json["right"] == {"adder": 4, "speaker": 4, "sorter": 4}
    built = json.loads((tmp_path / "built.json").read_text())["experts"]["adder"]
    assert (built["skills"]["sums"], built["tokens"]) == ([4, 0], 5)
    assert all(name == "sums" or right == 0 for name, (right, _) in built["skills"].items() if name in SKILLS)


def test_an_expert_is_judged_on_what_it_answered_only(
    symmoe_command: Symmoe, pool_file: Path, directory: Path, tmp_path: Path
) -> None:
    whole = recorded()
    some = {ident: given for ident, given in whole.answers["adder"].items() if ident != "q1"}
    write_records(directory, Records(whole.questions, {**whole.answers, "adder": some}))
    symmoe_command("profile", "build", "--pool", pool_file, "-o", tmp_path / "built.json")
    built = json.loads((tmp_path / "built.json").read_text())["experts"]
    assert (built["adder"]["overall"], built["speaker"]["overall"]) == ([4, 7], [4, 8])


def test_profiles_need_known_answers(symmoe_command: Symmoe, pool_file: Path, directory: Path, tmp_path: Path) -> None:
    write_records(directory, recorded(known=False))
    said = symmoe_command("profile", "build", "--pool", pool_file, "-o", tmp_path / "built.json")
    assert (said.code, len(said.errors)) == (2, 1)
    assert "no question has a known answer" in said.errors[0]


@pytest.mark.parametrize(("quality", "most"), [(0.0, 1), (1.0, 3)])
def test_the_dial_of_a_batch_decides_how_many_are_asked(
    symmoe_command: Symmoe, directory: Path, tmp_path: Path, quality: float, most: int
) -> None:
    pool = echo_pool(
        tmp_path / "even", EXPERTS, engine={"kind": "recorded", "records": str(directory)},
        routing={"top_p": 1.0}, aggregation={"trust": 1.0},
    )  # fmt: skip
    flat = {"format": 2, "experts": {name: {"overall": [5, 5], "skills": {}} for name in EXPERTS}}
    (tmp_path / "even" / "profiles.json").write_text(json.dumps(flat))
    lines = [{"id": q.id, "prompt": q.text} for q in recorded().questions]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = symmoe_command(
        "batch", "run", tmp_path / "in.jsonl", "-o", tmp_path / "out.jsonl", "--pool", pool, "--quality", quality
    )
    assert said.code == 0, said.err
    traces = [json.loads(line) for line in (tmp_path / "out.trace.jsonl").read_text().splitlines()]
    assert max(len(trace["candidates"]) for trace in traces) == most
    assert {len(trace["recruited"]) for trace in traces} == {3}
