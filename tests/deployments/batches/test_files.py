from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import openai
import psutil
import pytest
from symmoe.deployments.access.keys import Caller
from symmoe.deployments.batches.batches import Batches, BatchRecord
from symmoe.deployments.batches.files import BATCH, FILE, Contents, FileRecord, Files, new_id
from symmoe.deployments.batches.quota import OverQuotaError, Quota
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage

from symmoe.store import embedded_socket
from tests.deployments.api.conftest import Running, running
from tests.deployments.batches.conftest import ended, line, start
from tests.stores import state_in


def stored(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "files").iterdir() if path.is_file())


def upload(service: Running, name: str, raw: bytes = b"{}\n", **options: object) -> httpx.Response:
    return service.post("/v1/files", files={"file": (name, raw)}, data={"purpose": "batch"}, **options)


def test_a_file_comes_back_as_it_was_sent(client: openai.OpenAI) -> None:
    raw = bytes(range(256)) * 1000
    file = client.files.create(file=("lines.jsonl", raw), purpose="batch")
    assert (file.filename, file.bytes, file.purpose, file.object) == ("lines.jsonl", len(raw), "batch", "file")
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == raw
    assert client.files.delete(file.id).deleted
    for ask in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(file.id)


def test_files_come_in_pages_either_way_round(client: openai.OpenAI) -> None:
    made = [client.files.create(file=(f"{n}", b"{}"), purpose="batch").id for n in range(5)]
    assert [file.id for file in client.files.list(limit=2)][:5] == made[::-1]
    page = client.files.list(limit=2, order="asc", after=made[1])
    assert [file.id for file in page.data] == made[2:4]
    assert page.has_more
    client.files.delete(made[3])  # a page goes on after a name that is gone
    assert [file.id for file in client.files.list(order="asc", after=made[3])] == [made[4]]
    assert [file.id for file in client.files.list(purpose="batch", limit=1).data] == [made[4]]
    assert client.files.list(purpose="vision").data == []


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=10001", "order=up", "after=file-../../x", "after=%00"])
def test_a_page_that_makes_no_sense_is_refused(service: Running, query: str) -> None:
    assert service.get(f"/v1/files?{query}").status_code == 400


@pytest.mark.parametrize(
    "name",
    ["../../../../tmp/evil", "/etc/passwd", "..\\..\\evil", "a\x00b", "file-" + "0" * 32, "é" * 400, "x\r\ny: z"],
)
def test_what_a_client_calls_its_file_is_part_of_no_path(service: Running, name: str) -> None:
    folder = embedded_socket().parent  # where the store is
    answered = upload(service, name)
    if answered.status_code == 400:  # what can be part of no form
        return
    file = answered.json()
    assert file["id"] in stored(folder)
    assert all(entry.startswith("file-") for entry in stored(folder))
    told = service.get(f"/v1/files/{file['id']}/content")
    assert told.content == b"{}\n"
    assert told.headers["content-disposition"] == f'attachment; filename="{file["id"]}.jsonl"'
    assert len(file["filename"]) <= 255


@pytest.mark.parametrize(
    "ident",
    [
        "..%2f..%2fvalkey.sock",
        "%2e%2e",
        "file-..%2f..%2fvalkey.log",
        "file-" + "g" * 32,
        "file-" + "0" * 31,
        "x" * 5000,
    ],
)
def test_an_id_leads_to_our_own_files_only(service: Running, ident: str) -> None:
    for path in (f"/v1/files/{ident}", f"/v1/files/{ident}/content", f"/v1/batches/{ident}"):
        assert service.get(path).status_code == 404
    assert httpx.delete(f"{service.url}/v1/files/{ident}", timeout=20).status_code == 404


FORM = {"content-type": "multipart/form-data; boundary=b"}
PURPOSE = b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
ONE_FILE = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n{}\r\n'


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (PURPOSE + ONE_FILE + b"--b--\r\n", 200),
        (ONE_FILE + PURPOSE + b"--b--\r\n", 200),
        (ONE_FILE + b"--b--\r\n", 400),
        (PURPOSE + b"--b--\r\n", 400),
        (PURPOSE + ONE_FILE, 400),
        (PURPOSE + ONE_FILE + ONE_FILE + b"--b--\r\n", 400),
        (PURPOSE + PURPOSE + ONE_FILE + b"--b--\r\n", 400),
        (PURPOSE.replace(b"batch", b"vision") + ONE_FILE + b"--b--\r\n", 400),
        (PURPOSE.replace(b"batch", b"b" * 5000) + ONE_FILE + b"--b--\r\n", 400),
        (PURPOSE.replace(b"purpose", b"wings") + ONE_FILE + b"--b--\r\n", 400),
        (b"--b\r\n" + b"x: y\r\n" * 10_000, 400),
        (b"--b\r\nx: " + b"y" * 100_000, 400),
        (b"nothing of the kind", 400),
        (b"", 400),
    ],
)
def test_a_form_is_taken_only_whole_and_right(service: Running, raw: bytes, status: int) -> None:
    folder = embedded_socket().parent
    before = set(stored(folder))
    answered = service.post("/v1/files", content=raw, headers=FORM)
    assert answered.status_code == status, answered.text
    if status != 200:
        assert answered.json()["error"]["code"]
        assert set(stored(folder)) == before


def test_other_bodies_and_web_pages_of_other_sites_are_refused(service: Running) -> None:
    assert service.post("/v1/files", json={}).status_code == 415
    assert upload(service, "f", headers={"origin": "https://elsewhere.example"}).status_code == 403
    assert upload(service, "f", headers={"sec-fetch-site": "cross-site"}).status_code == 403
    assert upload(service, "f", headers={"origin": service.url, "sec-fetch-site": "same-origin"}).status_code == 200


@pytest.mark.parametrize("announced", [True, False])
def test_a_file_over_the_bound_is_refused_and_nothing_of_it_is_kept(service: Running, announced: bool) -> None:
    folder = embedded_socket().parent
    before = stored(folder)

    def chunks() -> Iterator[bytes]:
        yield PURPOSE + ONE_FILE.removesuffix(b"{}\r\n")
        for _ in range(40):
            yield b"x" * (1 << 16)

    raw = b"".join(chunks()) if announced else chunks()
    with suppress(httpx.WriteError):  # it may be answered, and closed, before all was sent
        assert service.post("/v1/files", content=raw, headers=FORM).status_code == 413
    assert stored(folder) == before


def test_an_upload_that_breaks_off_leaves_nothing(service: Running) -> None:
    folder = embedded_socket().parent
    before, begun = stored(folder), threading.Event()

    def chunks() -> Iterator[bytes]:
        yield PURPOSE + ONE_FILE.removesuffix(b"{}\r\n") + b"x" * 1000
        while len(stored(folder)) == len(before):
            threading.Event().wait(0.005)
        begun.set()
        raise ConnectionError

    with pytest.raises(ConnectionError):
        service.post("/v1/files", content=chunks(), headers=FORM)
    assert begun.is_set()
    for _ in range(500):
        if stored(folder) == before:
            break
        threading.Event().wait(0.01)
    assert stored(folder) == before


class TwoKeys:
    """Knows two keys."""

    required = True

    async def caller(self, key: str | None) -> Caller | None:
        return Caller(f"id of {key}") if key in ("mine", "yours") else None

    async def named(self, ident: str) -> Caller | None:
        return Caller(ident)


def test_others_see_neither_files_nor_batches(tmp_path: Path) -> None:
    with state_in(tmp_path), running(tmp_path, Settings(), TwoKeys()) as service:

        def client(key: str) -> openai.OpenAI:
            return openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0, timeout=20)

        mine, yours, nobodys = client("mine"), client("yours"), client("nobody's")
        batch = ended(mine, start(mine, [line(0)]))
        ids = (batch.input_file_id, str(batch.output_file_id))
        for ident in ids:
            for ask in (yours.files.retrieve, yours.files.content, yours.files.delete):
                with pytest.raises(openai.NotFoundError):
                    ask(ident)
            with pytest.raises(openai.AuthenticationError):
                nobodys.files.content(ident)
        for other in (yours.batches.retrieve, yours.batches.cancel):
            with pytest.raises(openai.NotFoundError):
                other(batch.id)
        window, endpoint = "24h", "/v1/chat/completions"
        with pytest.raises(openai.NotFoundError):
            yours.batches.create(input_file_id=ids[0], endpoint=endpoint, completion_window=window)  # type: ignore[arg-type]
        assert (yours.files.list().data, yours.batches.list().data) == ([], [])
        assert {file.id for file in mine.files.list()} == set(ids)
        with pytest.raises(openai.AuthenticationError):
            nobodys.files.create(file=b"{}", purpose="batch")


@pytest.mark.slow
def test_memory_stays_flat_while_large_files_go_in_and_out(tmp_path: Path) -> None:
    size = 128 << 20
    with state_in(tmp_path), running(tmp_path, Settings()) as service:

        def chunks() -> Iterator[bytes]:
            yield PURPOSE + ONE_FILE.removesuffix(b"{}\r\n")
            for _ in range(size >> 16):
                yield b"x" * (1 << 16)
            yield b"\r\n--b--\r\n"

        service.openai.files.create(file=b"{}", purpose="batch")
        before = psutil.Process().memory_info().rss
        file = service.post("/v1/files", content=chunks(), headers=FORM).json()
        assert file["bytes"] == size
        with httpx.stream("GET", f"{service.url}/v1/files/{file['id']}/content", timeout=60) as response:
            assert sum(len(chunk) for chunk in response.iter_bytes()) == size
        assert psutil.Process().memory_info().rss - before < 24 << 20


FILE_PART = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'


@contextmanager
def bounded(folder: Path, **bounds: int) -> Iterator[Running]:
    with state_in(folder), running(folder, Settings(batch_lease=1.0, **bounds), TwoKeys()) as service:  # type: ignore[arg-type]
        yield service


def client_of(service: Running, key: str = "mine") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0, timeout=20)


def upload_as(service: Running, raw: bytes, key: str = "mine") -> str:
    return client_of(service, key).files.create(file=("f", raw), purpose="batch").id


def test_the_bytes_of_one_key_are_bounded_and_the_error_says_what_to_delete(tmp_path: Path) -> None:
    with bounded(tmp_path, most_files_bytes=300_000) as service:
        first, _ = upload_as(service, b"x" * 100_000), upload_as(service, b"x" * 150_000)
        with pytest.raises(openai.APIStatusError) as refused:
            upload_as(service, b"x" * 120_000)
        assert refused.value.status_code == 413
        assert refused.value.code == "file_quota_exceeded"
        assert first in refused.value.message
        assert "250000 bytes" in refused.value.message
        assert len(stored(tmp_path / "state")) == 2
        upload_as(service, b"x" * 250_000, "yours")  # others have their own
        client_of(service).files.delete(first)
        upload_as(service, b"x" * 120_000)


def test_a_file_whose_size_was_not_announced_is_bounded_as_it_comes(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield PURPOSE + FILE_PART
        for _ in range(8):
            yield b"x" * 65_536
        yield b"\r\n--b--\r\n"

    with bounded(tmp_path, most_files_bytes=300_000) as service:
        headers = {**FORM, "authorization": "Bearer mine"}
        answered = httpx.post(f"{service.url}/v1/files", content=chunks(), headers=headers, timeout=20)
        assert (answered.status_code, answered.json()["error"]["code"]) == (413, "file_quota_exceeded")
        assert stored(tmp_path / "state") == []


def test_the_number_of_files_is_bounded_outputs_and_those_to_come_counted(tmp_path: Path) -> None:
    with bounded(tmp_path, most_files=4) as service:
        mine = client_of(service)
        batch = start(
            mine, [{**line(0), "body": {**line(0)["body"], "messages": [{"role": "user", "content": "hold"}]}}]
        )
        upload_as(service, b"{}")
        with pytest.raises(openai.APIStatusError, match="there are 4"):
            upload_as(service, b"{}")
        with pytest.raises(openai.APIStatusError) as refused:
            mine.batches.create(
                input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        assert refused.value.status_code == 413
        service.engine.released.set()
        over = ended(mine, batch)
        assert over.output_file_id
        upload_as(service, b"{}")  # there was an output only, and no errors
        with pytest.raises(openai.APIStatusError, match="there are 4"):
            upload_as(service, b"{}")
        mine.files.delete(over.output_file_id)
        upload_as(service, b"{}")


def test_what_comes_in_at_the_same_time_is_counted(tmp_path: Path) -> None:
    async def play() -> list[int]:
        storage = Storage()
        files = Files(storage, Contents(tmp_path / "files"))
        quota, granted = Quota(files, Batches(storage, Settings()), 3, 1000), list[int]()

        async def one(size: int, enough: asyncio.Event) -> None:
            async with quota.room("me", 1, size) as room:
                granted.append(room)
                await enough.wait()

        enough = asyncio.Event()
        coming = [asyncio.create_task(one(400, enough)) for _ in range(3)]
        while len(granted) < 3:
            await asyncio.sleep(0.001)
        with pytest.raises(OverQuotaError, match="3, with 1000 bytes"):
            await one(1, enough)
        enough.set()
        await asyncio.gather(*coming)
        await one(1000, enough)
        await storage.close()
        return granted

    with state_in(tmp_path):
        assert asyncio.run(play()) == [400, 400, 200, 1000]


def test_files_last_as_long_as_their_maker_says_but_no_longer_than_the_service_allows(tmp_path: Path) -> None:
    with bounded(tmp_path, file_seconds=7200) as service:
        mine, form = client_of(service), ("f", b"{}")
        plain = mine.files.create(file=form, purpose="batch")
        short = mine.files.create(file=form, purpose="batch", expires_after={"anchor": "created_at", "seconds": 3600})
        long = mine.files.create(file=form, purpose="batch", expires_after={"anchor": "created_at", "seconds": 90000})
        for file, seconds in ((plain, 7200), (short, 3600), (long, 7200)):
            assert file.expires_at == file.created_at + seconds
            assert mine.files.retrieve(file.id).expires_at == file.expires_at
        short_lived = {"anchor": "created_at", "seconds": 3600}
        over = ended(mine, start(mine, [line(0)], output_expires_after=short_lived))
        output = mine.files.retrieve(str(over.output_file_id))
        assert output.expires_at == output.created_at + 3600


@pytest.mark.parametrize(
    "said",
    [
        {"anchor": "created_at"},
        {"seconds": 3600},
        {"anchor": "x", "seconds": 3600},
        {"anchor": "created_at", "seconds": 1},
    ],
)
def test_an_expiry_that_makes_no_sense_is_refused(service: Running, said: dict[str, object]) -> None:
    fields = {"purpose": "batch", **{f"expires_after[{name}]": str(value) for name, value in said.items()}}
    answered = service.post("/v1/files", files={"file": ("f", b"{}")}, data=fields)
    assert answered.status_code == 400
    assert "expires_after" in answered.json()["error"]["message"]


def test_an_expired_file_is_gone_unless_an_open_batch_is_made_of_it(tmp_path: Path) -> None:
    async def play() -> list[str]:
        storage, now = Storage(), int(time.time())
        files, batches = Files(storage, Contents(tmp_path / "files")), Batches(storage, Settings())
        idents = [new_id(FILE) for _ in range(3)]
        for ident, expires in zip(idents, (now - 1, now - 1, now + 60), strict=True):
            async with files.contents.writing(ident) as file:
                file.write(b"{}")
            await files.put(FileRecord(ident, "me", "f", 2, "batch", now - 10, expires))
        outputs = new_id(FILE), new_id(FILE)
        await batches.create(BatchRecord(new_id(BATCH), "me", idents[1], *outputs, now, now + 60))
        assert await files.get(idents[0], "me") is None  # even before it is deleted
        assert [await files.expire() for _ in "abc"] == [1, 0, 0]
        assert [file.id for file in await files.all_of("me")] == idents[1:]
        await storage.close()
        return idents[1:]

    with state_in(tmp_path):
        kept = asyncio.run(play())
        assert stored(tmp_path) == sorted(kept)
