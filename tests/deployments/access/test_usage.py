"""What keys used and what it cost: told with an answer, counted by key, expert and day, and bounded by budgets."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from symmoe.cli.key import with_store as stored
from symmoe.deployments.access.keys import Caller
from symmoe.deployments.access.usage import Usage, Used, usage_between
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage

from symmoe.config import PriceConfig
from symmoe.errors import StoreError
from tests.deployments.api.conftest import Running, until
from tests.deployments.batches.conftest import ended, line, rows_of, start

from .conftest import ask, client, contents, keyed, kill_the_store, make_key

pytestmark = pytest.mark.usefixtures("state")
ADDER = {"prompt": 2.0, "completion": 8.0}
PRICED = {"adder": {"price": ADDER}, "speaker": {"price": {"completion": 1.0}}}
TEXT = "sums of 1 2 3"
COST = (5 * 2.0 + 6 * 8.0) / 1e6
"""Of `TEXT`, five words, answered by `adder: ` and the same."""
TOLD = {"usage": {"include": True}}


@contextmanager
def priced(folder: Path, settings: Settings | None = None, **options: Any) -> Iterator[Running]:
    with keyed(folder, settings or Settings(), more=PRICED, currency="EUR", **options) as served:
        yield served


def used(served: Running, key: str, path: str = "/v1/usage", **query: str) -> Any:
    response = served.get(path, headers={"authorization": f"Bearer {key}"}, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def post(served: Running, key: str, path: str, **body: Any) -> Any:
    response = served.post(path, json=body, headers={"authorization": f"Bearer {key}"})
    assert response.status_code == 200, response.text
    return response.json()


@given(st.floats(0, 1e4), st.floats(0, 1e4), st.integers(0, 1 << 20), st.integers(0, 1 << 20))
def test_a_price_is_for_a_million_tokens(prompt: float, completion: float, asked: int, given: int) -> None:
    units = PriceConfig(prompt=prompt, completion=completion).cost(asked, given)
    assert units / 1e9 == pytest.approx((prompt * asked + completion * given) / 1e6, abs=1e-9)


def test_every_door_tells_what_an_answer_cost_where_it_is_asked(tmp_path: Path) -> None:
    key, _ = make_key()
    said = [{"role": "user", "content": TEXT}]
    with priced(tmp_path) as served:
        for path, body in {
            "/v1/chat/completions": {"messages": said},
            "/v1/completions": {"prompt": TEXT},
            "/v1/messages": {"messages": said, "max_tokens": 16},
            "/v1/responses": {"input": TEXT},
        }.items():
            whole = post(served, key, path, model="adder", **body, **TOLD)
            assert whole["usage"]["cost"] == pytest.approx(COST), path
            assert "cost" not in post(served, key, path, model="adder", **body)["usage"]
        stream = ask(served, key, TEXT, stream=True, stream_options={"include_usage": True}, extra_body=TOLD)
        assert list(stream.parse())[-1].usage.cost == pytest.approx(COST)
        (before,) = used(served, key)["data"]
        both = post(served, key, "/v1/completions", model="adder", prompt=[TEXT, TEXT], **TOLD)
        assert both["usage"]["cost"] == pytest.approx(2 * COST)
        (after,) = used(served, key)["data"]
        assert [after[name] - before[name] for name in ("requests", "generations")] == [1, 2]
        free = post(served, key, "/v1/chat/completions", model="sorter", messages=said, **TOLD)
        assert free["usage"]["cost"] == 0
        assert served.metric('symmoe_cost_total{expert="adder"}') == pytest.approx(11 * COST)
        models = served.get("/v1/models", headers={"authorization": f"Bearer {key}"}).json()["data"]
        assert {each["id"]: each["pricing"] for each in models if "pricing" in each}["adder"] == ADDER | {
            "currency": "EUR"
        }


def test_usage_is_told_by_key_expert_and_day_to_an_admin_and_its_own_to_a_key(tmp_path: Path) -> None:
    (key, record), (other, stranger), (admin, boss) = make_key(), make_key(), make_key(admin=True)
    with priced(tmp_path) as served:
        for _ in range(3):
            ask(served, key, TEXT)
        ask(served, other, TEXT)
        ask(served, other, "hello", model="symmoe/best", extra_body={"symmoe": {"k": 2}})
        everybody = used(served, admin, "/v1/admin/usage", by="key")
        rows = {row.pop("key"): row for row in everybody["data"]}
        assert (everybody["currency"], everybody["by"]) == ("EUR", ["key"])
        assert set(rows) == {record.id, stranger.id}
        assert rows[record.id] == {
            "requests": 3,
            "generations": 3,
            "prompt_tokens": 15,
            "completion_tokens": 18,
            "cost": pytest.approx(3 * COST),
            "name": "team",
            "budget": None,
        }
        assert (rows[stranger.id]["requests"], rows[stranger.id]["generations"]) == (2, 3)
        own = used(served, other, by="expert,day")["data"]
        today = datetime.now(UTC).date().isoformat()
        assert sum(row["generations"] for row in own) == 3
        assert {row["day"] for row in own} == {today}
        assert "requests" not in own[0]
        assert used(served, other)["data"][0]["requests"] == 2
        assert used(served, key, **{"from": "2020-01-01", "to": "2020-01-31"})["data"] == []
        refused = served.get("/v1/admin/usage", headers={"authorization": f"Bearer {key}"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_admin")
        for query in ({"from": "2020-01-01"}, {"from": "2030-01-01"}, {"by": "colour"}, {"to": "soon"}, {"till": "x"}):
            answer = served.get("/v1/usage", headers={"authorization": f"Bearer {key}"}, params=query)
            assert answer.status_code == 400, query
        assert boss.id not in rows


def test_embeddings_count_as_tokens_that_cost_nothing(tmp_path: Path) -> None:
    key, _ = make_key()
    with priced(tmp_path) as served:
        tokens = post(served, key, "/v1/embeddings", model="symmoe/embedder", input="one two")["usage"]["total_tokens"]
        (row,) = used(served, key, by="expert")["data"]
        assert (row["expert"], row["prompt_tokens"], row["cost"]) == ("symmoe/embedder", tokens, 0)
        body, mine = {"input": "one two", "dimensions": 8}, {"authorization": f"Bearer {key}"}
        assert served.post("/v1/embeddings", json=body, headers=mine).status_code == 400
        assert used(served, key, by="expert")["data"] == [row]
        assert served.post("/v1/embeddings", json={**body, "dimensions": 16}, headers=mine).status_code == 200


def test_an_answer_from_the_cache_is_a_request_that_costs_nothing(tmp_path: Path) -> None:
    key, _ = make_key()
    with priced(tmp_path, Settings(cache_seconds=60.0)) as served:
        first, again = (ask(served, key, TEXT, extra_body=TOLD) for _ in range(2))
        assert again.headers["x-symmoe-cache"] == "hit"
        assert [each.parse().usage.cost for each in (first, again)] == [pytest.approx(COST), 0]
        (row,) = used(served, key)["data"]
        assert (row["requests"], row["generations"]) == (2, 1)


def test_who_leaves_a_stream_has_used_what_was_told(tmp_path: Path) -> None:
    key, _ = make_key()
    with priced(tmp_path) as served:
        body = {"model": "adder", "messages": [{"role": "user", "content": "hold on"}], "stream": True}
        told = {"authorization": f"Bearer {key}"}
        with httpx.stream("POST", f"{served.url}/v1/chat/completions", json=body, headers=told, timeout=20) as response:
            assert any("adder" in line for line in response.iter_lines())
        until(lambda: used(served, key)["data"])
        (row,) = used(served, key)["data"]
        assert row["generations"] == 1
        assert row["completion_tokens"] >= 1
        assert row["cost"] == pytest.approx(row["completion_tokens"] * 8e-6)


def test_lines_of_a_batch_count_alike_and_end_with_the_budget(tmp_path: Path) -> None:
    key, _ = make_key()
    poor, _ = make_key(budget=0.0)
    with priced(tmp_path) as served:
        body = {"model": "adder", "messages": [{"role": "user", "content": TEXT}], **TOLD}
        over = ended(client(served, key), start(client(served, key), [line(n, body=body) for n in range(3)]))
        costs = [row["response"]["body"]["usage"]["cost"] for row in rows_of(client(served, key), over.output_file_id)]
        assert costs == [pytest.approx(COST)] * 3
        (row,) = used(served, key, by="expert")["data"]
        assert (row["expert"], row["generations"], row["cost"]) == ("adder", 3, pytest.approx(3 * COST))
        over = ended(client(served, poor), start(client(served, poor), [line(1, body=body)]))
        (failed,) = rows_of(client(served, poor), over.error_file_id)
        assert failed["response"]["status_code"] == 429
        assert failed["response"]["body"]["error"]["code"] == "insufficient_quota"


@pytest.mark.parametrize("per", ["day", "month", "ever"])
def test_a_key_that_has_spent_its_budget_is_refused_as_clients_know_it(tmp_path: Path, per: Any) -> None:
    key, record = make_key(budget=1.5 * COST, budget_per=per)
    with priced(tmp_path) as served:
        for written in (True, False):
            ask(served, key, TEXT)
            if written:
                used(served, key)
        with pytest.raises(openai.RateLimitError) as raised:
            ask(served, key, TEXT)
        error, response = raised.value, raised.value.response
        assert (error.code, error.type) == ("insufficient_quota", "insufficient_quota")
        assert response.headers["x-should-retry"] == "false"
        assert "retry-after" not in response.headers
        assert "EUR" in str(error)
        assert served.metric('symmoe_refused_total{why="budget"}') == 1
        assert used(served, key)["data"][0]["requests"] == 2
        rows = stored(lambda storage: usage_between(storage, today(), today(), ["key"], record.id))
        budget = rows[0]["budget"]
        assert budget == {"amount": record.budget, "per": per, "spent": pytest.approx(2 * COST)}


def today() -> date:
    return datetime.now(UTC).date()


def test_what_is_used_while_the_store_is_away_is_counted_once_it_is_back(
    tmp_path: Path, foreign: Callable[[], object]
) -> None:
    key, _ = make_key(budget=1.0)
    with priced(tmp_path) as served:
        ask(served, key, TEXT)
        assert used(served, key)["data"][0]["requests"] == 1
        kill_the_store()
        for _ in range(5):
            ask(served, key, TEXT)
        assert served.metric("symmoe_limits_unchecked_total") >= 5
        foreign()
        until(lambda: used(served, key)["data"][0]["requests"] == 6, AssertionError)


def test_a_part_whose_acknowledgement_was_lost_is_sent_again_and_counts_once() -> None:
    class Forgetful:
        """A store that does as it is told the first time, and says that it was lost over it."""

        def __init__(self, storage: Storage) -> None:
            self._storage, self.told = storage, 0

        async def do(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
            self.told += 1
            done = await self._storage.do(work)
            if self.told == 1:
                raise StoreError("lost")
            return done

    async def working(storage: Storage) -> list[dict[str, Any]]:
        usage = Usage(Forgetful(storage), 60.0, lambda: None)
        usage.note("key-a", [Used("adder", 5, 6, 7_000_000_000)])
        with pytest.raises(StoreError):
            await usage.write()
        spent = await usage.spent(Caller("key-a", budget=1.0, budget_per="ever"))
        await usage.write()
        await usage.write()
        assert await usage.spent(Caller("key-a", budget=1.0, budget_per="ever")) == 7.0
        assert spent is not None
        assert spent >= 7.0
        return await usage_between(storage, today(), today(), [], "key-a")

    (row,) = stored(working)
    assert (row["requests"], row["generations"], row["cost"]) == (1, 1, 7.0)


def test_a_day_and_a_month_begin_anew_and_rows_expire() -> None:
    now = [datetime(2026, 1, 31, 23, 59, tzinfo=UTC)]

    async def working(storage: Storage) -> list[float | None]:
        usage = Usage(storage, 60.0, lambda: None, lambda: now[0])
        seen = []
        for at in (now[0], datetime(2026, 2, 1, tzinfo=UTC), datetime(2026, 2, 2, tzinfo=UTC)):
            now[0] = at
            usage.note("key-a", [Used("adder", 1, 1, 10**9)])
            await usage.write()
            for per in ("day", "month", "ever"):
                seen.append(await usage.spent(Caller("key-a", budget=1.0, budget_per=per)))  # type: ignore[arg-type]
        assert 0 < await storage.do(lambda client: client.ttl("symmoe:usage:{key-a}:2026-02")) <= 60 + 31 * 86_400
        return seen

    assert stored(working) == [1, 1, 1, 1, 1, 2, 1, 2, 3]


def test_experts_whose_names_have_other_letters_are_counted_too() -> None:
    async def working(storage: Storage) -> list[dict[str, Any]]:
        usage = Usage(storage, 60.0, lambda: None)
        usage.note("key-a", [Used("modèle", 3, 4, 5)])
        await usage.write()
        return await usage_between(storage, today(), today(), ["expert"], "key-a")

    (row,) = stored(working)
    assert (row["expert"], row["prompt_tokens"], row["completion_tokens"]) == ("modèle", 3, 4)


def test_fields_that_are_none_are_passed_over() -> None:
    async def working(storage: Storage) -> list[dict[str, Any]]:
        usage = Usage(storage, 60.0, lambda: None)
        usage.note("key-a", [Used("adder", 1, 1)])
        await usage.write()
        name = f"symmoe:usage:{{key-a}}:{today().strftime('%Y-%m')}"
        spoilt = {b"\xff\xfe": "1", "31|adder": "1", f"{today().day:02}|adder|cost": "many", "||cost": "-1"}
        await storage.do(lambda client: client.hset(name, mapping=spoilt))  # type: ignore[arg-type]
        return await usage_between(storage, today(), today(), ["expert"], "key-a")

    assert stored(working) == [
        {"expert": "adder", "generations": 1, "prompt_tokens": 1, "completion_tokens": 1, "cost": 0}
    ]


def test_where_nothing_is_counted_nothing_is_written_and_it_is_said(tmp_path: Path) -> None:
    key, _ = make_key()
    with priced(tmp_path, Settings(usage_seconds=0.0)) as served:
        ask(served, key, TEXT)
        response = served.get("/v1/usage", headers={"authorization": f"Bearer {key}"})
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_counted")
    assert not [name for name in contents() if name.startswith(b"symmoe:usage:")]


def test_what_was_counted_last_is_written_as_the_service_ends(tmp_path: Path) -> None:
    key, record = make_key()
    with priced(tmp_path) as served:
        ask(served, key, TEXT)
    assert stored(lambda storage: usage_between(storage, today(), today(), [], record.id))[0]["requests"] == 1


def test_many_notes_at_once_add_up() -> None:
    async def working(storage: Storage) -> list[dict[str, Any]]:
        both = [Usage(storage, 60.0, lambda: None) for _ in range(2)]

        async def noting(usage: Usage) -> None:
            for _ in range(50):
                usage.note("key-a", [Used("adder", 1, 2, 3)])
                await usage.write()

        await asyncio.gather(*(noting(usage) for usage in both for _ in range(2)))
        return await usage_between(storage, today(), today(), [], "key-a")

    (row,) = stored(working)
    assert (row["requests"], row["prompt_tokens"], row["completion_tokens"]) == (200, 200, 400)
