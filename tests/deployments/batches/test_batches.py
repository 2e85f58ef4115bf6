"""The official client runs batches."""

from __future__ import annotations

import json

import openai
import pytest
from symmoe.deployments.settings import Settings

from tests.deployments.api.conftest import Running
from tests.deployments.batches.conftest import Row, ended, exactly_once, expected, line, rows_of, start, texts, until
from tests.stores import connected


def test_two_hundred_lines_are_each_answered_once(service: Running, client: openai.OpenAI) -> None:
    before = service.metric('symmoe_batch_lines_total{outcome="answered"}')
    batch = start(client, [line(n) for n in range(200)], metadata={"who": "me"})
    assert batch.status == "validating"
    over = ended(client, batch)
    exactly_once(client, over, 200)
    assert over.metadata == {"who": "me"}
    assert over.in_progress_at
    assert over.finalizing_at
    assert over.completed_at
    assert over.completed_at >= over.finalizing_at >= over.in_progress_at >= over.created_at
    assert over.expires_at == over.created_at + 86400
    listed = over.symmoe["listed_until"] - over.completed_at  # type: ignore[attr-defined]
    assert listed == Settings().batch_records_seconds
    assert service.metric('symmoe_batch_lines_total{outcome="answered"}') == before + 200
    assert connected().keys("symmoe:batch:*:lines") == []


def test_a_row_is_as_openai_writes_it_and_explains_itself_only_where_asked(client: openai.OpenAI) -> None:
    explained = line(1)
    explained["body"]["symmoe"] = {"explain": True}
    over = ended(client, start(client, [line(0), explained]))
    plain, told = rows_of(client, over.output_file_id)
    assert set(plain) == {"id", "custom_id", "response", "error"}
    assert set(plain["response"]) == {"status_code", "request_id", "body"}
    assert plain["response"]["status_code"] == 200
    assert plain["error"] is None
    assert plain["response"]["body"]["object"] == "chat.completion"
    assert "symmoe" not in plain["response"]["body"]
    assert told["response"]["body"]["symmoe"]["asked"] == ["speaker"]
    name = client.files.retrieve(str(over.output_file_id))
    assert (name.purpose, name.filename) == ("batch_output", f"{over.id}_output.jsonl")


def bad(number: int, **body: object) -> Row:
    good = line(number)
    return {**good, "body": {**good["body"], **body}}


BAD: dict[str, tuple[Row | str, str | int]] = {
    "json": ('{"custom_id": "x",', "invalid_json_line"),
    "deep": ("[" * 5000, "invalid_json_line"),
    "list": ("[1, 2]", "invalid_json_line"),
    "nameless": ({**line(5), "custom_id": ""}, "invalid_custom_id"),
    "twice": (line(0), "duplicate_custom_id"),
    "method": (line(6, method="GET"), "invalid_method"),
    "url": (line(7, url="/v1/embeddings"), "invalid_url"),
    "body": (line(8, body=[]), "invalid_body"),
    "field": (line(9, more=1), "unknown_field"),
    "parameter": (bad(10, functions=[{}]), 400),
    "temperature": (bad(11, temperature=9), 400),
    "stream": (bad(12, stream=True), 400),
    "model": (bad(13, model="nobody"), 404),
    "long": (bad(14, messages=[{"role": "user", "content": "sums " * 80}]), 400),
}


def test_a_bad_line_costs_that_line_only(client: openai.OpenAI) -> None:
    rows = [line(0), *(row for row, _ in BAD.values()), "", line(1)]
    over = ended(client, start(client, rows))
    assert over.status == "completed"
    assert texts(rows_of(client, over.output_file_id)) == expected([0, 1])
    errors = rows_of(client, over.error_file_id)
    said = [row["error"]["code"] if row["error"] else row["response"]["status_code"] for row in errors]
    assert said == [why for _, why in BAD.values()]
    assert [row["custom_id"] for row in errors][4:6] == ["line-0", "line-6"]
    assert all("error" in row["response"]["body"] for row in errors if row["response"])
    counts = over.request_counts
    assert counts is not None
    assert (counts.total, counts.completed, counts.failed) == (len(rows) - 1, 2, len(BAD))


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "empty_file"),
        (b"\n \n", "empty_file"),
        (b"no json at all\nat all\n", "invalid_json_line"),
        (bytes(range(256)) * 40, "invalid_json_line"),
        (b"{}\n" * 50_001, "too_many_requests"),
    ],
)
def test_a_file_that_is_no_batch_fails_as_a_whole(client: openai.OpenAI, raw: bytes, code: str) -> None:
    over = ended(client, start(client, raw))
    assert over.status == "failed"
    assert over.failed_at
    assert over.errors is not None
    assert over.errors.data is not None
    assert [error.code for error in over.errors.data] == [code]
    assert over.output_file_id is None
    assert over.error_file_id is None


def test_a_batch_that_is_cancelled_keeps_what_was_answered(service: Running, client: openai.OpenAI) -> None:
    held = bad(1, messages=[{"role": "user", "content": "sums hold"}])
    batch = start(client, [line(0), held, bad(2, model="nobody"), line(3)])
    until(client, batch, lambda found: found.request_counts.completed + found.request_counts.failed == 3)
    told = client.batches.cancel(batch.id)
    assert told.cancelling_at
    over = ended(client, batch)
    assert over.status == "cancelled"
    assert over.cancelled_at
    assert texts(rows_of(client, over.output_file_id)) == expected([0, 3])
    errors = {row["custom_id"]: row for row in rows_of(client, over.error_file_id)}
    assert errors["line-1"]["error"]["code"] == "batch_cancelled"
    assert errors["line-2"]["response"]["status_code"] == 404
    service.engine.held.clear()
    with pytest.raises(openai.ConflictError):
        client.batches.cancel(batch.id)


def test_batches_come_in_pages_the_newest_first(client: openai.OpenAI) -> None:
    made = [start(client, [line(n)]) for n in range(3)]
    assert [batch.id for batch in client.batches.list(limit=2)][:3] == [batch.id for batch in reversed(made)]
    page = client.batches.list(limit=2, after=made[2].id)
    assert [batch.id for batch in page.data] == [made[1].id, made[0].id]
    for batch in made:
        ended(client, batch)


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"endpoint": "/v1/embeddings"}, 400),
        ({"completion_window": "1h"}, 400),
        ({"input_file_id": "file-none"}, 404),
        ({"input_file_id": "../../etc/passwd"}, 404),
        ({"metadata": {"k": "v" * 513}}, 400),
        ({"metadata": {str(n): "" for n in range(17)}}, 400),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 3599}}, 400),
        ({"output_expires_after": {"anchor": "last_read_at", "seconds": 3600}}, 400),
    ],
)
def test_what_cannot_be_done_is_refused_at_once(service: Running, changed: Row, status: int) -> None:
    file = service.openai.files.create(file=b"{}", purpose="batch")
    body = {"input_file_id": file.id, "endpoint": "/v1/chat/completions", "completion_window": "24h", **changed}
    response = service.post("/v1/batches", json=body)
    assert response.status_code == status
    assert response.json()["error"]["message"]


def test_an_output_cannot_be_an_input_and_an_input_in_use_cannot_be_deleted(
    service: Running, client: openai.OpenAI
) -> None:
    batch = start(client, [bad(1, messages=[{"role": "user", "content": "sums hold"}])])
    with pytest.raises(openai.ConflictError):
        client.files.delete(batch.input_file_id)
    client.batches.cancel(batch.id)
    over = ended(client, batch)
    service.engine.held.clear()
    assert client.files.delete(batch.input_file_id).deleted
    with pytest.raises(openai.BadRequestError):
        client.batches.create(
            input_file_id=str(over.error_file_id), endpoint="/v1/chat/completions", completion_window="24h"
        )


def test_every_output_line_is_ascii_so_that_no_reader_breaks_it(client: openai.OpenAI) -> None:
    odd = bad(1, messages=[{"role": "user", "content": "sums \u2028\u0085é"}])
    over = ended(client, start(client, [odd]))
    raw = client.files.content(str(over.output_file_id)).content
    assert raw.isascii()
    assert json.loads(raw)["response"]["body"]["choices"][0]["message"]["content"].endswith("é")
