"""What one key may keep, and for how long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
from symmoe.deployments.batches.batch_records import BatchRecord
from symmoe.deployments.batches.batches import Batches
from symmoe.deployments.batches.contents import Contents
from symmoe.deployments.batches.files import FileRecord, Files
from symmoe.deployments.batches.ids import BATCH, FILE, new_id
from symmoe.deployments.batches.quota import OverQuotaError, Quota
from symmoe.deployments.settings import Settings
from symmoe.deployments.storage import Storage

from tests.deployments.api.conftest import Running, running
from tests.deployments.batches.conftest import ended, line, start, state_in
from tests.deployments.batches.test_files import FORM, PURPOSE, TwoKeys, stored

FILE_PART = b'--b\r\ncontent-disposition: form-data; name="file"; filename="f"\r\n\r\n'


@contextmanager
def bounded(folder: Path, **bounds: int) -> Iterator[Running]:
    with state_in(folder), running(folder, Settings(batch_lease=1.0, **bounds), TwoKeys()) as service:  # type: ignore[arg-type]
        yield service


def client(service: Running, key: str = "mine") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{service.url}/v1", api_key=key, max_retries=0, timeout=20)


def upload(service: Running, raw: bytes, key: str = "mine") -> str:
    return client(service, key).files.create(file=("f", raw), purpose="batch").id


def test_the_bytes_of_one_key_are_bounded_and_the_error_says_what_to_delete(tmp_path: Path) -> None:
    with bounded(tmp_path, most_files_bytes=300_000) as service:
        first, _ = upload(service, b"x" * 100_000), upload(service, b"x" * 150_000)
        with pytest.raises(openai.APIStatusError) as refused:
            upload(service, b"x" * 120_000)
        assert refused.value.status_code == 413
        assert refused.value.code == "file_quota_exceeded"
        assert first in refused.value.message
        assert "250000 bytes" in refused.value.message
        assert len(stored(tmp_path / "state")) == 2
        upload(service, b"x" * 250_000, "yours")  # others have their own
        client(service).files.delete(first)
        upload(service, b"x" * 120_000)


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
        mine = client(service)
        batch = start(
            mine, [{**line(0), "body": {**line(0)["body"], "messages": [{"role": "user", "content": "hold"}]}}]
        )
        upload(service, b"{}")
        with pytest.raises(openai.APIStatusError, match="there are 4"):
            upload(service, b"{}")
        with pytest.raises(openai.APIStatusError) as refused:
            mine.batches.create(
                input_file_id=batch.input_file_id, endpoint="/v1/chat/completions", completion_window="24h"
            )
        assert refused.value.status_code == 413
        service.engine.released.set()
        over = ended(mine, batch)
        assert over.output_file_id
        upload(service, b"{}")  # there was an output only, and no errors
        with pytest.raises(openai.APIStatusError, match="there are 4"):
            upload(service, b"{}")
        mine.files.delete(over.output_file_id)
        upload(service, b"{}")


def test_what_comes_in_at_the_same_time_is_counted(tmp_path: Path) -> None:
    async def play() -> list[int]:
        storage = Storage()
        files = Files(storage, Contents(tmp_path / "files"))
        quota, granted = Quota(files, Batches(storage), 3, 1000), list[int]()

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
        mine, form = client(service), ("f", b"{}")
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
        files, batches = Files(storage, Contents(tmp_path / "files")), Batches(storage)
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
