from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import openai
import pytest
from symmoe.deployments.access.keys import new_key, revoke, rotate
from symmoe.deployments.settings import Settings

from tests.deployments.access.conftest import ask, client, keyed, make_key, stored
from tests.deployments.api.conftest import PATIENCE, Running, running
from tests.deployments.batches.conftest import Row, ended, exactly_once, expected, line, rows_of, start, texts, until
from tests.deployments.batches.test_faults import asked, process
from tests.stores import connected, state_in


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


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    with state_in(tmp_path):
        yield tmp_path


def test_lines_are_charged_to_the_key_that_made_the_batch(folder: Path) -> None:
    key, _ = make_key(tokens_per_minute=1000)
    with keyed(folder, Settings()) as served:
        over = ended(client(served, key), start(client(served, key), [line(number) for number in range(4)]))
        rows = rows_of(client(served, key), over.output_file_id)
        used = sum(row["response"]["body"]["usage"]["total_tokens"] for row in rows)
        assert used > 0
        assert ask(served, key).headers["x-ratelimit-remaining-tokens"] == str(1000 - used)


def test_lines_over_a_limit_wait_until_there_is_room(folder: Path) -> None:
    key, _ = make_key(requests_per_minute=3)
    with keyed(folder, Settings()) as served:
        batch = start(client(served, key), [line(number) for number in range(5)])
        until = time.monotonic() + 20
        while served.metric('symmoe_refused_total{why="requests"}') < 1:
            assert time.monotonic() < until
        found = client(served, key).batches.retrieve(batch.id)
        assert (found.status, found.request_counts.failed) == ("in_progress", 0)
        assert found.request_counts.completed <= 2  # making the batch was a request too


def test_what_is_left_of_a_batch_fails_once_its_key_is_revoked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symmoe.deployments.batches.answering.LONGEST_KEY_PAUSE", 0.2)
    key, record = make_key(requests_per_minute=4)
    with keyed(folder, Settings()) as served:
        start(client(served, key), [line(number) for number in range(5)])
        until = time.monotonic() + 20
        while served.metric('symmoe_batch_lines_total{outcome="answered"}') < 3:
            assert time.monotonic() < until
        stored(lambda storage: revoke(storage, record.id, time.time()))
        while served.metric('symmoe_batch_lines_total{outcome="failed"}') < 2:
            assert time.monotonic() < until + 70


def test_under_a_rotated_key_everything_is_still_there_and_its_batch_goes_on(folder: Path) -> None:
    old, record = make_key(requests_per_minute=30)
    new = new_key()
    with keyed(folder, Settings()) as served:
        batch = start(client(served, old), [line(number) for number in range(2)])
        kept = client(served, old).responses.create(model="adder", input="sums")
        stored(lambda storage: rotate(storage, record.id, new, time.time(), 0.0))
        over = ended(client(served, new), batch)
        assert over.request_counts is not None
        assert over.request_counts.completed == 2
        assert len(rows_of(client(served, new), over.output_file_id)) == 2
        assert client(served, new).responses.retrieve(kept.id).id == kept.id
        served.until('symmoe_batch_lines_total{outcome="answered"}', 2)
        told = served.get("/v1/usage", headers={"authorization": f"Bearer {new}"}).json()["data"]
        assert [row["requests"] for row in told] == [3]
        assert served.get("/v1/key", headers={"authorization": f"Bearer {new}"}).json()["id"] == record.id
        until = time.monotonic() + 20
        while served.get("/v1/key", headers={"authorization": f"Bearer {old}"}).status_code != 401:
            assert time.monotonic() < until


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Running]:
    """A service whose engine runs two at once, and at which twenty may wait."""
    with state_in(tmp_path):
        settings = Settings(most_waiting=20, batch_lease=1.0, batch_lines_open=128)
        with running(tmp_path, settings, engine={"max_num_seqs": 2}) as service:
            yield service


def held(expert: str, number: int) -> dict[str, object]:
    """A line that its expert holds until it is let."""
    body = {"model": expert, "messages": [{"role": "user", "content": f"hold {number}"}]}
    return line(number, body=body)


def asking(
    service: Running, experts: tuple[str, ...], text: str = "online"
) -> tuple[list[threading.Thread], list[int]]:
    """One online request to each of these experts, begun; and the statuses they get."""
    statuses: list[int] = []

    def ask(expert: str) -> None:
        body = {"model": expert, "messages": [{"role": "user", "content": text}]}
        statuses.append(service.post(json=body).status_code)

    threads = [threading.Thread(target=ask, args=(expert,)) for expert in experts]
    for each in threads:
        each.start()
    return threads, statuses


def test_online_requests_are_answered_before_lines_that_came_long_before_them_and_run_already(narrow: Running) -> None:
    batch = start(narrow.openai, [held("adder", n) for n in range(18)])
    narrow.until('symmoe_queue{expert="adder"}', 16)
    threads, statuses = asking(narrow, ("sorter", "adder", "adder"))
    for each in threads:  # while the lines that run are held: they give way, and begin anew later
        each.join(PATIENCE)
    assert statuses == [200] * 3
    narrow.engine.released.set()
    over = ended(narrow.openai, batch)
    assert [query.text for query in narrow.engine.asked].count("online") == 3
    assert over.request_counts is not None
    assert over.request_counts.completed == 18


def test_lines_in_a_full_queue_give_way_to_online_requests_and_are_asked_again(narrow: Running) -> None:
    first, others = asking(narrow, ("adder", "adder"), "hold me")
    narrow.until('symmoe_running{expert="adder"}', 2)
    batch = start(narrow.openai, [held("adder", n) for n in range(10)])
    narrow.until('symmoe_queue{expert="adder"}', 10)
    threads, statuses = asking(narrow, ("sorter",) * 18)
    narrow.until('symmoe_queue{expert="sorter"}', 18)
    assert narrow.metric('symmoe_queue{expert="adder"}') == 2
    narrow.engine.released.set()
    for each in (*threads, *first):
        each.join(PATIENCE)
    over = ended(narrow.openai, batch)
    assert statuses + others == [200] * 20
    assert over.request_counts is not None
    assert (over.request_counts.completed, over.request_counts.failed) == (10, 0)
    assert narrow.metric('symmoe_batch_lines_total{outcome="retried"}') >= 6


@dataclass(frozen=True)
class Measured:
    """Seconds from the upload to the end; the most memory of the service, before and after, and of the store (MiB)."""

    seconds: float
    before: float
    peak: float
    store: float


def peak(pid: int) -> float:
    """The largest resident memory that a process has had, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measured(folder: Path, count: int, seconds: float) -> Measured:
    """A batch of so many lines by the official client; each is asked and answered once, in the order of the input."""
    with process(folder, 0.0) as service:
        exactly_once(service.client, ended(service.client, start(service.client, [line(0)])), 1)
        before, began = peak(service.pid), time.monotonic()
        over = ended(service.client, start(service.client, [line(n) for n in range(count)]), seconds)
        took = time.monotonic() - began
        exactly_once(service.client, over, count)
        assert connected().keys("symmoe:batch:*:lines") == []
        assert set(Counter(asked(folder)[1:]).values()) == {1}
        assert len(asked(folder)) == count + 1
        store = connected().info("memory")["used_memory_peak"] / (1 << 20)
        return Measured(took, before, peak(service.pid), store)


@pytest.mark.slow
def test_fifty_thousand_lines_are_each_asked_and_answered_once_in_little_memory(state: Path, tmp_path: Path) -> None:
    """In 34 s, 25 MiB of the service and 28 MiB of the store on two cores."""
    found = measured(tmp_path, Settings().most_batch_lines, 600)
    assert found.peak - found.before < 64, found
    assert found.store < 96, found
