from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from symmoe.deployments.api.multipart import FormReader
from symmoe.deployments.api.open_requests import Online
from symmoe.deployments.batches.answering import Place, Window
from symmoe.deployments.batches.batches import Batches, BatchRecord, batch_key, lines_key
from symmoe.deployments.batches.files import BATCH, FILE, Contents, FileRecord, Files, is_id, new_id
from symmoe.deployments.batches.input import BadInputError, BadLineError, Lines, find_lines
from symmoe.deployments.batches.job import Job
from symmoe.deployments.batches.output import Answered, response_line
from symmoe.deployments.batches.progress import Progress
from symmoe.deployments.batches.runner import Leases
from symmoe.deployments.batches.segments import Rows, Segments, Spot
from symmoe.deployments.errors import ApiError
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage

from tests.deployments.batches.conftest import jsonl, line, resources
from tests.stores import connected, state_in

LINES = 9


def test_ids_sort_by_age_and_are_nobodys_path() -> None:
    made = [new_id(FILE) for _ in range(100)]
    assert len(set(made)) == 100
    assert [name[:19] for name in made] == sorted(name[:19] for name in made)
    assert all(is_id(name, FILE) and not is_id(name, BATCH) for name in made)
    assert not is_id("file-../" + "0" * 29, FILE)
    assert not is_id(made[0] + "\n", FILE)


@given(st.binary(max_size=300), st.lists(st.integers(0, 600), max_size=8))
def test_a_form_gives_the_same_file_however_it_is_cut(raw: bytes, cuts: list[int]) -> None:
    head = b'--xyzzy-b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
    tail = b'\r\n--xyzzy-b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--xyzzy-b--\r\n'
    whole = head + raw + tail
    reader = FormReader("multipart/form-data; boundary=xyzzy-b", "file", frozenset({"purpose"}))
    places = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    got = [part for a, b in pairwise(places) for part in reader.feed(whole[a:b])]
    assert b"".join(got) == raw
    assert reader.end().fields == {"purpose": "batch"}


@given(st.binary(max_size=400))
def test_what_is_no_form_is_an_error_of_the_clients(raw: bytes) -> None:
    reader = FormReader("multipart/form-data; boundary=b", "file", frozenset())

    def read() -> None:
        reader.feed(raw)
        reader.end()

    with pytest.raises(ApiError) as refused:
        read()
    assert refused.value.status == 400


LINE = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 5).map(lambda n: json.dumps(line(n)).encode()),
    st.just(b""),
    st.just(b"   "),
    st.just(b"x" * 2000),
)


@given(st.lists(LINE.map(lambda raw: raw.replace(b"\n", b"")), max_size=12), st.booleans())
def test_every_line_is_found_where_it_stands_and_reads_as_itself(raws: list[bytes], last: bool) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "lines"
        path.write_bytes(b"\n".join(raws) + (b"\n" if last else b""))
        if not any(_object(raw) for raw in raws):
            with pytest.raises(BadInputError):
                find_lines(path, 1000, 1000, lambda: False)
            return
        places = find_lines(path, 1000, 1000, lambda: False)
        said = [n for n, raw in enumerate(raws, 1) if raw.removeprefix(b"\xef\xbb\xbf").strip()]
        assert list(places.numbers) == said
        lines, seen = Lines(path, places, 1000), set[str]()
        for number in said:
            raw = raws[number - 1]
            if raw.startswith(b'{"custom_id"') and json.loads(raw)["custom_id"] not in seen:
                assert lines.read(number) == json.loads(raw)
                seen.add(json.loads(raw)["custom_id"])
            else:
                with pytest.raises(BadLineError):
                    lines.read(number)
        lines.close()


def _object(raw: bytes) -> bool:
    try:
        return isinstance(json.loads(raw.removeprefix(b"\xef\xbb\xbf")), dict)
    except ValueError:
        return False


def test_keys_take_turns_and_no_more_are_open_than_there_is_room() -> None:
    async def play() -> list[str]:
        room = 4
        window, order, places = Window(lambda: room), list[str](), list[Place]()

        async def one(owner: str) -> None:
            places.append(await window.enter(owner))
            order.append(owner)

        waiting = [asyncio.create_task(one(owner)) for owner in ("a", "a", "a", "a", "a", "a", "b", "b", "c")]
        await asyncio.sleep(0.01)
        assert order == ["a", "a", "a", "a", "b", "c"]  # one that has none open always enters
        waiting.pop(4).cancel()
        while len(order) < len(waiting):
            window.leave(places.pop())
            await asyncio.sleep(0.01)
            assert len(places) <= 6
        await asyncio.gather(*waiting)
        return order

    assert asyncio.run(play())[6:] == ["b", "a"]


def test_a_place_is_not_lost_with_who_was_given_it() -> None:
    async def play() -> None:
        window = Window(lambda: 1)
        first = await window.enter("a")
        given, gone = (asyncio.create_task(window.enter("a")) for _ in "12")
        await asyncio.sleep(0)
        window.leave(first)
        given.cancel()  # it has its place, but did not come to know
        place = await asyncio.wait_for(gone, 5)
        window.leave(place)
        await asyncio.wait_for(window.enter("a"), 5)

    asyncio.run(play())


def test_a_key_that_is_paused_takes_no_place_from_others_and_goes_on_when_its_time_is_over() -> None:
    async def play() -> float:
        window, began = Window(lambda: 1), time.monotonic()
        window.pause("a", 0.3)
        late = asyncio.create_task(window.enter("a"))
        for _ in range(5):
            window.leave(await asyncio.wait_for(window.enter("b"), 5))
        await late
        return time.monotonic() - began

    assert asyncio.run(play()) >= 0.3


def test_open_lines_weigh_no_more_than_they_may_but_for_one_of_each_key() -> None:
    async def play() -> None:
        window = Window(lambda: 100, 1000)
        heavy = await window.enter("a", 5000)
        more = asyncio.create_task(window.enter("a", 1))
        await asyncio.sleep(0)
        assert not more.done()
        for weight in (100, 25):  # b has its share whatever a has
            await asyncio.wait_for(window.enter("b", weight), 5)
        window.leave(heavy)
        await asyncio.wait_for(more, 5)

    asyncio.run(play())


def test_room_is_made_while_online_requests_are_there_and_a_moment_longer() -> None:
    now = 100.0
    online = Online(lambda: now)

    with online.counted("/v1/batches"):
        assert not online.busy
    with online.counted("/v1/chat/completions"):
        assert online.busy
    assert online.busy
    now += 5.1
    assert not online.busy


def test_a_lease_is_one_holders_until_it_ends_or_is_given_back(state: Path) -> None:
    async def play() -> list[bool]:
        storage = Storage()
        one, other = Leases(storage, 0.2), Leases(storage, 30)
        held = [await one.hold("a"), await other.hold("a"), await one.hold("a")]
        await asyncio.sleep(0.3)  # the lease must run out, by the server's clock
        held += [await other.hold("a"), await one.hold("a")]
        await one.release("a")
        held.append(await one.hold("a"))
        await other.release("a")
        held.append(await one.hold("a"))
        await storage.close()
        return held

    assert asyncio.run(play()) == [True, False, True, True, False, False, True]


def record(**facts: str) -> BatchRecord:
    return replace(BatchRecord("batch_x", "me", "file-a", "file-b", "file-c", 1, 2), facts=facts)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({}, "validating"),
        ({"in_progress_at": "1"}, "in_progress"),
        ({"in_progress_at": "1", "cancelling_at": "1"}, "cancelling"),
        ({"in_progress_at": "1", "finalizing_at": "1"}, "finalizing"),
        ({"finalizing_at": "1", "ended": "completed"}, "completed"),
        ({"cancelling_at": "1", "ended": "cancelled"}, "cancelled"),
    ],
)
def test_a_batchs_state_follows_from_what_became_of_it(facts: dict[str, str], state: str) -> None:
    assert record(**facts).document["status"] == state


def test_a_batch_that_was_promised_outlives_the_store(state: Path) -> None:
    """The store flushes once a second here, as it does in use: what was only written would be lost."""

    async def play() -> BatchRecord | None:
        storage = Storage()
        batches, new = Batches(storage, Settings()), replace(record(), id=new_id(BATCH))
        await batches.create(new)
        os.kill(connected().info("server")["process_id"], signal.SIGKILL)
        found = await batches.get(new.id, "me")
        await storage.close()
        return found

    assert asyncio.run(play()) is not None


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("whole")
    with state_in(folder):
        yield folder, asyncio.run(resumed(folder, frozenset()))


async def resumed(folder: Path, done: frozenset[int]) -> list[dict[str, Any]]:
    """The output of a batch of which some lines have their rows already; always the same batch."""
    storage = Storage()
    files = Files(storage, Contents(folder / "files"))
    now = int(time.time())
    ids = [f"file-{digit * 32}" for digit in "123"]
    async with files.contents.writing(ids[0]) as file:
        file.write(jsonl([*(line(n) for n in range(LINES - 1)), "{"]))
    await files.put(FileRecord(ids[0], "me", "lines", 1, "batch", now))
    batch = BatchRecord(f"batch_{'0' * 32}", "me", *ids, now, now + 60)
    await storage.do(lambda client: client.delete(f"symmoe:batch:{{{batch.id}}}"))
    await Batches(storage, Settings()).create(batch)
    progress, asked = Progress(storage, Segments(folder / "files" / "rows"), Settings()), set[str]()

    async def ask(body: dict[str, Any], ident: str, share: str, owner: str, seconds: float) -> Answered:
        text = body["messages"][0]["content"]
        assert text not in asked
        asked.add(text)
        await asyncio.sleep(0)
        return Answered(200, {"text": text})

    for number in done:
        text = line(number - 1)["body"]["messages"][0]["content"]
        row, count = response_line(batch.id, number, f"line-{number - 1}", Answered(200, {"text": text}))
        await progress.put(batch.id, number, row, count)
    await Job(batch, files, resources(ask, progress, room=3, pause=0.01), Settings()).run()
    ended = await progress.read(batch.id)
    assert ended is not None
    assert ended.document["request_counts"] == {"total": LINES, "completed": LINES - 1, "failed": 1}
    assert len(asked) == LINES - 1 - len(done)
    await storage.close()
    paths = [files.contents.path(ident) for ident in ids[1:]]
    return [json.loads(row) for path in paths for row in path.read_text(encoding="utf-8").splitlines()]


@settings(max_examples=15)
@given(st.frozensets(st.integers(1, LINES - 1)))
def test_a_batch_resumed_from_any_lines_gives_the_same_output(whole: Any, done: frozenset[int]) -> None:
    folder, rows = whole
    assert len(rows) == LINES
    assert asyncio.run(resumed(folder, done)) == rows


A, B, UNKNOWN = (f"{BATCH}{digit * 32}" for digit in "abc")


class Counting(Storage):
    """Counts round trips, and makes each wait until it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.trips, self.let, self.waiting = 0, asyncio.Event(), asyncio.Event()

    async def do(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        self.trips += 1
        self.waiting.set()
        await self.let.wait()
        return await super().do(work)


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[None]:
    with state_in(tmp_path):
        for batch in (A, B):
            connected().hset(batch_key(batch), "fixed", "{}")
        yield


def rows(folder: Path, batch: str) -> dict[int, str]:
    """The rows of a batch's lines: the store says where they stand."""
    found: dict[bytes, bytes] = connected().hgetall(lines_key(batch))  # type: ignore[assignment]
    read = dict[int, str]()
    with Segments(folder).reading(batch) as reading:
        for line, spot in found.items():
            reading.copy(Spot.read(spot.decode()), row := BytesIO())
            read[int(line)] = row.getvalue().decode().removesuffix("\n")
    return read


@pytest.mark.usefixtures("stored")
def test_hundreds_of_rows_take_a_few_round_trips_and_each_is_counted_once(tmp_path: Path) -> None:
    async def play() -> int:
        storage = Counting()
        storage.let.set()
        written = Rows(storage, Segments(tmp_path))
        puts = [written.put((A, B)[n % 2], n // 2, [f"row {n}"], "answered") for n in range(600)]
        again = [written.put(A, n, ["another"], "failed") for n in range(50)]
        await asyncio.gather(*puts, *again)
        await storage.close()
        return storage.trips

    assert asyncio.run(play()) <= 4
    for place, batch in enumerate((A, B)):
        assert rows(tmp_path, batch) == {n: f"row {2 * n + place}" for n in range(300)}
        assert connected().hgetall(batch_key(batch)) == {
            b"fixed": b"{}",
            b"answered": b"300",
            b"row_bytes": b"%d" % sum(len(row) + 1 for row in rows(tmp_path, batch).values()),
        }


@pytest.mark.usefixtures("stored")
def test_who_writes_for_others_and_leaves_costs_them_nothing(tmp_path: Path) -> None:
    async def play() -> None:
        storage = Counting()
        written = Rows(storage, Segments(tmp_path))
        puts = [asyncio.create_task(written.put(A, n, [f"row {n}"], "answered")) for n in range(3)]
        await storage.waiting.wait()
        puts[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await puts[0]
        storage.let.set()
        await asyncio.gather(*puts[1:])
        await storage.close()

    asyncio.run(play())
    assert rows(tmp_path, A).keys() >= {1, 2}


@pytest.mark.usefixtures("stored")
def test_no_row_comes_after_the_end_or_for_a_batch_that_is_unknown(tmp_path: Path) -> None:
    async def play() -> None:
        storage = Counting()
        storage.let.set()
        connected().hset(batch_key(B), "ending", "cancelled")
        written = Rows(storage, Segments(tmp_path))
        await asyncio.gather(*(written.put(batch, 1, ["row"], "answered") for batch in (A, B, UNKNOWN)))
        await storage.close()

    asyncio.run(play())
    assert [bool(rows(tmp_path, batch)) for batch in (A, B, UNKNOWN)] == [True, False, False]
