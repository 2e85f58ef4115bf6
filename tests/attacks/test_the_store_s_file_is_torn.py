"""A file of the store that is torn or overwritten is mended as it is started, and what is lost is told and kept."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from symmoe.doctor import examine
from symmoe.errors import StoreError
from symmoe.store import damages, open_store, stop_embedded
from symmoe.store.embedded import good_parts
from tests.stores import connected

from .conftest import eventually, servers

ROWS = {f"row {number}": {"text": f"größer *2\r\n$3\r\nDEL\r\n {number}" * 9} for number in range(300)}


def appended(state: Path) -> Path:
    """The file that the server appends to."""
    return next(file for file in sorted((state / "appendonlydir").glob("*.incr.aof")) if file.stat().st_size)


def torn(state: Path, spoil: Callable[[bytes], bytes]) -> bytes:
    """Keep rows, stop the server and spoil its file; what it held before."""
    open_store().put("t", ROWS)
    assert stop_embedded()
    file = appended(state)
    whole = file.read_bytes()
    file.write_bytes(spoil(whole))
    return whole


def test_a_torn_end_costs_the_command_that_it_tears(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = torn(state, lambda data: data[:-100])
    there = open_store().rows("t")
    assert there == dict(list(ROWS.items())[:-1])
    (found,) = damages(state)
    kept = Path(found.kept).read_bytes()
    assert found.lost == len(kept)
    assert whole[found.offset :].startswith(kept)
    assert str(found.lost) in caplog.text
    assert str(found.offset) in caplog.text
    assert found.kept in caplog.text


@pytest.mark.parametrize(
    "scar", [b"\0" * 3000, b"*3\r\n$4\r\nHSET\r\n$900000000\r\nx", b"*9999999\r\n", b"\r\n*1\r\n$3\r\nno\r\n"]
)
def test_rows_behind_the_damage_are_kept(state: Path, scar: bytes) -> None:
    middle = 0

    def spoil(data: bytes) -> bytes:
        nonlocal middle
        middle = data.index(b"\r\n*4\r\n", 20_000) + 3  # a command begins there
        return data[:middle] + scar + data[middle + len(scar) :]

    whole = torn(state, spoil)
    there = open_store().rows("t")
    lost = {key for key in ROWS if key not in there}
    assert 0 < len(lost) <= 2 + len(scar) // 300
    assert there == {key: row for key, row in ROWS.items() if key not in lost}
    (found,) = damages(state)
    assert found.offset <= middle
    damaged = Path(found.kept).read_bytes()
    assert damaged == whole[:middle] + scar + whole[middle + len(scar) :]
    store = next(finding for finding in examine() if finding.what == "store")
    assert store.level == "slow"
    assert f"{found.lost} bytes" in store.found
    open_store().put("t", {"later": {}})
    assert stop_embedded()
    assert open_store().rows("t") == {**there, "later": {}}
    assert len(damages(state)) == 1


def test_a_row_that_is_spoilt_within_is_left_out_and_told(state: Path, caplog: pytest.LogCaptureFixture) -> None:
    open_store().put("t", ROWS)
    connected().hset("symmoe:t", mapping={"row 7": b'{"text": "\0\0', "row 8": b"[]", "row 9": b"\xff"})
    assert open_store().rows("t") == {key: row for key, row in ROWS.items() if key not in ("row 7", "row 8", "row 9")}
    assert "3 rows" in caplog.text


def test_what_a_killed_server_left_half_written_does_not_fill_the_disk(state: Path) -> None:
    store = open_store()
    store.put("t", ROWS)
    for number in range(3):
        connected().hset(f"large {number}", mapping={str(field): "x" * 2000 for field in range(2000)})
    connected().config_set("rdb-key-save-delay", 1_000_000)
    connected().bgrewriteaof()
    (server,) = servers(state)
    eventually(lambda: list(state.glob("temp-*")))
    server.kill()
    assert open_store().rows("t") == ROWS
    assert list(state.rglob("temp-*")) == []


def test_a_file_of_nothing_but_damage_leaves_an_empty_store_that_works(state: Path) -> None:
    torn(state, lambda data: os.urandom(len(data)).replace(b"*", b"+"))
    store = open_store()
    assert store.rows("t") == {}
    store.put("t", ROWS)
    assert store.rows("t") == ROWS


def test_what_cannot_be_mended_is_told_and_left_as_it_is(state: Path) -> None:
    open_store().put("t", ROWS)
    assert stop_embedded()
    (base,) = (state / "appendonlydir").glob("*.base.rdb")
    base.write_bytes(base.read_bytes()[:-20] + b"\xff" * 20)
    before = base.read_bytes(), appended(state).read_bytes()
    with pytest.raises(StoreError, match="did not start") as caught:
        open_store()
    assert "valkey.log" in (caught.value.hint or "")
    assert (base.read_bytes(), appended(state).read_bytes()) == before


def words(*said: bytes) -> bytes:
    return b"*%d\r\n" % len(said) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in said)


def test_a_transaction_stays_whole_or_goes_whole() -> None:
    plain, begun, ended = words(b"SET", b"a", b"1"), words(b"MULTI"), words(b"EXEC")
    whole = begun + plain + plain + ended
    assert good_parts(plain + whole + plain) == [(0, len(plain + whole + plain))]
    assert good_parts(plain + begun + plain) == [(0, len(plain))]
    assert good_parts(plain + ended + plain) == [(0, len(plain)), (len(plain + ended), len(plain + ended + plain))]
    spoilt = begun + plain + b"garbage\r\n" + plain + ended
    kept = b"".join((plain + spoilt + whole)[start:end] for start, end in good_parts(plain + spoilt + whole))
    assert kept.endswith(whole)
    assert kept.count(begun) == kept.count(ended) == 1


def test_however_a_file_is_spoilt_only_whole_commands_stay() -> None:
    drawn = random.Random(23)
    commands = [words(b"HSET", b"t", b"%d" % number, drawn.randbytes(20).hex().encode()) for number in range(200)]
    whole, known = b"".join(commands), set(commands)
    for _ in range(300):
        start, length = drawn.randrange(len(whole)), drawn.randrange(1, 400)
        scar = drawn.choice([b"", bytes(length), drawn.randbytes(length), whole[:length], b"\r\n" * length])
        data = whole[:start] + scar + whole[start + length :]
        kept = b"".join(data[first:last] for first, last in good_parts(data))
        assert good_parts(kept) in ([], [(0, len(kept))])
        found = [b"*4" + each for each in kept.split(b"*4")[1:]]
        whole_ones = sum(1 for each in found if each in known)
        assert whole_ones >= len(commands) - 2 - length // min(map(len, commands)) - 1


def test_every_torn_end_is_found() -> None:
    commands = [words(b"SET", b"key", b"x" * size) for size in (1, 10, 100)]
    ends = {0, *itertools.accumulate(map(len, commands))}
    data = b"".join(commands)
    for end in range(len(data) + 1):
        (part,) = good_parts(data[:end]) or [(0, 0)]
        assert part == (0, max(each for each in ends if each <= end))
