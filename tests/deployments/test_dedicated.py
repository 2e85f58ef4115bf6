"""A dedicated expert over a server that says what a test tells it to."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from symmoe.deployments import dedicated
from symmoe.deployments.dedicated import bundles, check_importable, engine_arguments
from symmoe.deployments.dedicated_expert import DedicatedExpert, Places
from symmoe.deployments.events import Asked, Begun, End, EngineState, Event, Finished, Piece, Tell, TurnedAway
from symmoe.deployments.prompts import Prompts
from symmoe.deployments.remote import PoolExperts

from symmoe.build import Assembly
from symmoe.config import DedicatedConfig, Pool, read_pool
from symmoe.errors import JobError, PoolError
from symmoe.loading.lanes import ExpertWeights
from symmoe.planning.turns import Turns
from symmoe.types import Generation, Message, Query, Sampling
from tests.deployments.prompting import AnySchema, Words

SCHEMA = '{"type": "object"}'
Parts = Callable[[Any], AsyncGenerator[Any, None]]


@dataclass
class Response:
    document: dict[str, Any]

    def model_dump(self) -> dict[str, Any]:
        return self.document


class FakeServer:
    def __init__(self, parts: Parts, error: Exception | None = None) -> None:
        self.parts, self.error = parts, error
        self.requests: list[Any] = []
        self.healthy = True

    async def completions(self, request: Any) -> AsyncGenerator[Any, None]:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        return self.parts(request)

    async def check_health(self) -> None:
        if not self.healthy:
            raise RuntimeError("the engine is dead")


def chunk(text: str = "", reason: str | None = None, **more: Any) -> list[str]:
    document = {"choices": [{"index": 0, "text": text, "finish_reason": reason}], **more}
    return [f"data: {json.dumps(document)}\n\n"]


def usage(prompt: int, completion: int) -> dict[str, Any]:
    return {"usage": {"prompt_tokens": prompt, "completion_tokens": completion}}


def saying(*parts: Any) -> Parts:
    async def said(request: Any) -> AsyncGenerator[Any, None]:
        for part in parts:
            yield part

    return said


STREAMED = saying(
    chunk(" one "), chunk("two"), chunk(" ", "length"), [f"data: {json.dumps(usage(3, 2))}\n\n"], ["data: [DONE]\n\n"]
)
WHOLE = saying(Response({"choices": [{"text": " one two ", "finish_reason": "length"}], **usage(3, 2)}))


def expert_on(server: FakeServer, slots: int = 2, most: int = 2) -> DedicatedExpert:
    return DedicatedExpert(
        "own",
        server,
        SimpleNamespace,
        Prompts(lambda _: Words(), AnySchema()),
        8,
        Places("own", Turns(slots, most, 5.0)),
    )


def asked(text: str = "to be sure", ident: str = "1", stream: bool = True, patience: float = 5.0) -> Asked:
    sampling = Sampling(40, 0.5, 0.8, seed=3, stop=("x",), schema=SCHEMA)
    return Asked(ident, "own", Query("0", (Message("user", text),), sampling), "me", patience, stream)


async def events_of(expert: DedicatedExpert, one: Asked) -> list[Event]:
    if not one.stream:
        return await expert.complete(one)
    return [event async for events in expert.stream(one) for event in events]


def ask(server: FakeServer, one: Asked) -> list[Event]:
    return asyncio.run(events_of(expert_on(server), one))


@pytest.mark.parametrize("stream", [True, False])
def test_it_is_asked_with_the_requests_own_sampling_and_the_room_that_its_prompt_leaves(stream: bool) -> None:
    server = FakeServer(STREAMED if stream else WHOLE)
    ask(server, asked(stream=stream))
    (request,) = server.requests
    assert (request.prompt, request.max_tokens, request.request_id) == ([0, 1, 2], 5, "1")
    assert (request.temperature, request.top_p, request.seed, request.stop) == (0.5, 0.8, 3, ["x"])
    assert request.response_format["json_schema"]["schema"] == {"type": "object"}
    assert request.stream is stream


@pytest.mark.parametrize("stream", [True, False])
def test_its_words_come_without_the_space_around_them_and_its_tokens_are_counted(stream: bool) -> None:
    begun, *pieces, end = ask(FakeServer(STREAMED if stream else WHOLE), asked(stream=stream))
    assert isinstance(begun, Begun)
    assert begun.lane == "resident"
    assert pieces == ([Piece("one"), Piece(" two")] if stream else [])
    assert end == Finished(Generation("one two", "length", 3, 2))


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85"])
def test_what_some_take_for_the_end_of_a_line_is_a_letter_of_a_stream(mark: str) -> None:
    document = {"choices": [{"index": 0, "text": f"one{mark}two", "finish_reason": "stop"}]}
    text = f"data: {json.dumps(document, ensure_ascii=False)}\n\n"
    *_, end = ask(FakeServer(saying([text])), asked())
    assert isinstance(end, Finished)
    assert end.generation.text == f"one{mark}two"


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        (saying(Response({"error": {"code": 400, "message": "no such grammar\nmore"}})), 400, "invalid_request"),
        (saying([f"data: {json.dumps({'error': {'code': 400, 'message': ''}})}\n\n"]), 400, "invalid_request"),
        (saying(Response({"error": {"code": 500, "message": "EngineDeadError"}})), 503, "expert_lost"),
        (saying(chunk("half")), 503, "expert_lost"),
        (saying(["data: {\n\n"]), 503, "expert_lost"),
        (saying(["data: [1]\n\n"]), 503, "expert_lost"),
    ],
)
def test_what_the_server_refuses_or_breaks_off_ends_in_the_refusal_that_engines_give(
    parts: Parts, status: int, code: str
) -> None:
    end = ask(FakeServer(parts), asked())[-1]
    assert isinstance(end, TurnedAway)
    assert (end.status, end.code, end.again) == (status, code, status == 503)
    assert "\n" not in end.message


@pytest.mark.parametrize(
    ("error", "code"), [(RuntimeError("dead"), "expert_lost"), (ValueError("no"), "invalid_request")]
)
def test_a_server_that_raises_loses_the_request_but_for_what_it_would_not_take(error: Exception, code: str) -> None:
    end = ask(FakeServer(WHOLE, error), asked())[-1]
    assert isinstance(end, TurnedAway)
    assert end.code == code


def test_what_does_not_fit_or_has_no_template_is_refused_before_it_is_asked() -> None:
    server = FakeServer(WHOLE)
    (long,) = ask(server, asked("a b c d e f g h"))
    system = replace(asked(), query=Query("0", (Message("system", "be brief"),), Sampling(4)))
    (unknown,) = ask(server, system)
    assert isinstance(long, TurnedAway)
    assert isinstance(unknown, TurnedAway)
    assert (long.status, long.code) == (400, "context_length_exceeded")
    assert (unknown.status, unknown.code) == (400, "invalid_messages")
    assert server.requests == []


async def who_waits() -> tuple[list[Event], list[Event], EngineState]:
    go, held = asyncio.Event(), asyncio.Event()

    async def holding(request: Any) -> AsyncGenerator[Any, None]:
        held.set()
        await go.wait()
        yield Response({"choices": [{"text": "x", "finish_reason": "stop"}]})

    expert = expert_on(FakeServer(holding), slots=1, most=1)
    first = asyncio.create_task(expert.complete(asked(ident="1", stream=False)))
    await held.wait()
    late = asyncio.create_task(expert.complete(asked(ident="2", stream=False, patience=0.05)))
    while not (await expert.state()).waiting:
        await asyncio.sleep(0)
    state = await expert.state()
    full = await expert.complete(asked(ident="3", stream=False))
    told = await late
    go.set()
    assert isinstance((await first)[-1], Finished)
    assert await expert.state() == EngineState("own", None, 0, {})
    return full, told, state


def test_who_finds_no_place_waits_as_long_as_it_has_patience_and_too_many_are_turned_away() -> None:
    full, late, state = asyncio.run(who_waits())
    assert state == EngineState("own", None, 1, {"own": 1})
    assert [type(event) for event in (*full, *late)] == [TurnedAway, TurnedAway]
    assert [(event.status, event.code) for event in (*full, *late) if isinstance(event, TurnedAway)] == [
        (429, "overloaded"), (503, "waited_too_long"),
    ]  # fmt: skip


def test_a_line_of_a_batch_that_runs_gives_way_twice_and_is_answered_in_the_end() -> None:
    async def playing() -> tuple[list[list[Event]], list[Event], list[str], int]:
        begun: asyncio.Queue[None] = asyncio.Queue()
        go = asyncio.Event()
        cancelled = 0

        async def holding(request: Any) -> AsyncGenerator[Any, None]:
            nonlocal cancelled
            try:
                begun.put_nowait(None)
                if request.request_id.startswith("line"):
                    await go.wait()
            except asyncio.CancelledError:
                cancelled += 1
                raise
            yield Response({"choices": [{"text": "x", "finish_reason": "stop"}]})

        server = FakeServer(holding)
        expert = expert_on(server, slots=1, most=5)
        line = replace(asked(ident="line", stream=False), background=True, patience=60.0)
        running = asyncio.create_task(expert.complete(line))
        online = []
        for number in range(2):
            await begun.get()
            online.append(await expert.complete(asked(ident=f"online {number}", stream=False)))
            await begun.get()
        await begun.get()
        third = asyncio.create_task(expert.complete(asked(ident="online 2", stream=False)))
        while not (await expert.state()).waiting:
            await asyncio.sleep(0)
        go.set()
        online.append(await third)
        return online, await running, [request.request_id for request in server.requests], cancelled

    online, events, requests, cancelled = asyncio.run(playing())
    assert [type(each[-1]) for each in online] == [Finished] * 3
    assert [type(event) for event in events] == [Begun, Finished]
    assert requests == ["line", "online 0", "line-1", "online 1", "line-2", "online 2"]
    assert cancelled == 2


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_frees_its_place_and_the_server(stream: bool) -> None:
    async def leaving() -> tuple[bool, list[Event]]:
        held, closed = asyncio.Event(), asyncio.Event()

        async def holding(request: Any) -> AsyncGenerator[Any, None]:
            try:
                yield chunk("one")
                held.set()
                await asyncio.Event().wait()
            finally:
                closed.set()

        server = FakeServer(holding)
        expert = expert_on(server, slots=1)
        task = asyncio.create_task(events_of(expert, asked(stream=stream)))
        await held.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.parts = WHOLE
        return closed.is_set(), await expert.complete(asked(ident="2", stream=False))

    closed, events = asyncio.run(leaving())
    assert closed
    assert isinstance(events[-1], Finished)


def test_it_is_well_as_long_as_its_server_is() -> None:
    server = FakeServer(WHOLE)
    expert = expert_on(server)
    asyncio.run(expert.check_health())
    server.healthy = False
    with pytest.raises(RuntimeError, match="dead"):
        asyncio.run(expert.check_health())


def pool_of(tmp_path: Path, **expert: Any) -> Pool:
    file = tmp_path / "pool.yaml"
    experts = [{"name": "own", "model": "org/own", **expert}, {"name": "other", "model": "org/other"}]
    file.write_text(yaml.safe_dump({"name": "p", "experts": experts}))
    return read_pool(str(file))


@pytest.mark.parametrize("written", [True, {}, {"replicas": 3, "least": 0, "cpus": 2}])
def test_a_pool_file_says_who_is_dedicated(tmp_path: Path, written: Any) -> None:
    own = pool_of(tmp_path, dedicated=written).expert("own")
    assert own.dedicated == DedicatedConfig(**({} if written is True else written))
    assert pool_of(tmp_path, dedicated=False).expert("own").dedicated is None


@pytest.mark.parametrize(
    ("expert", "said"),
    [
        ({"dedicated": True, "remote": {"url": "http://far/v1"}}, "remote or dedicated, not both"),
        ({"dedicated": {"least": 2}}, "more than the 1 of replicas"),
        ({"dedicated": {"gpus": 1}}, "gpus: unknown key"),
        ({"dedicated": "yes"}, "dedicated"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, expert: dict[str, Any], said: str) -> None:
    with pytest.raises(PoolError, match=said):
        pool_of(tmp_path, **expert)


def test_an_engine_has_what_the_pool_says_of_engines(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, dedicated=True)
    on_cpus, on_gpus = engine_arguments(pool, 2048, False), engine_arguments(pool, 2048, True)
    assert (on_cpus["max_model_len"], on_cpus["kv_cache_memory_bytes"]) == (2048, 2**30)
    assert (on_gpus["tensor_parallel_size"], on_gpus["gpu_memory_utilization"]) == (1, 0.9)
    assert bundles(DedicatedConfig(cpus=4), 0) == [{"CPU": 4}]
    assert bundles(DedicatedConfig(), 2) == [{"CPU": 1, "GPU": 1}, {"GPU": 1}]


def test_an_adapter_is_merged_once_for_each_state_of_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYMMOE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Assembly, "weights", lambda self, name: ExpertWeights("base", str(tmp_path / "adapter")))
    written: list[tuple[str, str | None]] = []

    def write(model: str, adapter: str | None, out: Path) -> Path:
        written.append((model, adapter))
        out.mkdir()
        (out / "model.safetensors").write_text("merged")
        return out

    monkeypatch.setattr(dedicated, "write_merged", write)
    (tmp_path / "adapter").mkdir()
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    found = []
    for state in ("first", "first", "second"):
        weights.write_text(state)
        pool = pool_of(tmp_path, dedicated=True, adapter="./adapter")
        found.append(dedicated.checkpoint(Assembly(pool), pool.expert("own")))
    assert written == [("base", str(tmp_path / "adapter"))] * 2
    assert found[0] == found[1] != found[2]
    assert (Path(found[0]) / "model.safetensors").read_text() == "merged"
    assert sorted(Path(found[0]).parent.iterdir()) == sorted(map(Path, found[1:]))


def test_what_is_missing_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "jsonref" else object())
    with pytest.raises(JobError, match="jsonref") as raised:
        check_importable()
    assert "symmoe[dedicated]" in str(raised.value.hint)


class Known:
    """Experts that say who they are."""

    def __init__(self, name: str, warm: bool) -> None:
        self.name, self._warm = name, warm

    async def ask(self, asked: Asked, tell: Tell) -> End:
        return Finished(Generation(self.name, "stop", 1, 1))

    async def warm(self) -> bool:
        return self._warm

    async def engines(self) -> list[EngineState]:
        return [EngineState(self.name, None, 0, {})]


def test_each_expert_is_asked_where_it_is(tmp_path: Path) -> None:
    def said(experts: PoolExperts, name: str) -> str:
        end = asyncio.run(experts.ask(replace(asked(), expert=name), lambda event: None))
        return end.generation.text if isinstance(end, Finished) else end.code

    pool = pool_of(tmp_path, dedicated=True)
    both = PoolExperts(pool, Known("replicas", False), {"own": Known("own", True)})
    assert said(both, "own") == "own"
    assert said(both, "other") == "replicas"
    assert [state.expert for state in asyncio.run(both.engines())] == ["replicas", "own"]
    assert not asyncio.run(both.warm())
    alone = PoolExperts(pool, None, {"own": Known("own", True)})
    assert asyncio.run(alone.warm())
    assert said(alone, "other") == "expert_unavailable"


def test_who_leaves_the_queue_as_it_would_be_turned_away_harms_nobody_who_comes() -> None:
    async def run() -> float:
        places = Places("own", Turns(1, 2, 5.0))
        await places.taken(asked())
        waiting = [asyncio.create_task(places.taken(asked(ident=ident))) for ident in ("2", "3")]
        await asyncio.sleep(0)
        waiting[1].cancel()  # and before its task hears of it
        for ident in ("1", "2"):
            asyncio.get_running_loop().call_soon(places.leave, ident)
        waited = await places.taken(replace(asked(ident="4"), key="somebody else"))
        await asyncio.gather(*waiting, return_exceptions=True)
        return waited

    assert asyncio.run(run()) >= 0
