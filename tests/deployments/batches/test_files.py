"""Files: uploads that are bounded, names that lead nowhere, owners that see their own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import openai
import psutil
import pytest
from symmoe.deployments.access.callers import Caller
from symmoe.deployments.settings import Settings

from symmoe.store import embedded_socket
from tests.deployments.api.conftest import Running, running
from tests.deployments.batches.conftest import ended, line, start, state_in


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
FILE = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n{}\r\n'


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (PURPOSE + FILE + b"--b--\r\n", 200),
        (FILE + PURPOSE + b"--b--\r\n", 200),
        (FILE + b"--b--\r\n", 400),
        (PURPOSE + b"--b--\r\n", 400),
        (PURPOSE + FILE, 400),
        (PURPOSE + FILE + FILE + b"--b--\r\n", 400),
        (PURPOSE + PURPOSE + FILE + b"--b--\r\n", 400),
        (PURPOSE.replace(b"batch", b"vision") + FILE + b"--b--\r\n", 400),
        (PURPOSE.replace(b"batch", b"b" * 5000) + FILE + b"--b--\r\n", 400),
        (PURPOSE.replace(b"purpose", b"wings") + FILE + b"--b--\r\n", 400),
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
        yield PURPOSE + FILE.removesuffix(b"{}\r\n")
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
        yield PURPOSE + FILE.removesuffix(b"{}\r\n") + b"x" * 1000
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
            yield PURPOSE + FILE.removesuffix(b"{}\r\n")
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
