from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.errors import CapacityError, CheckpointError
from symmoe.loading.arena import PAGE, Allocator, Arena, attach, available_memory, installed_memory, pinned, whole_pages

HOLDER = """
import sys
from symmoe.loading.arena import Arena
arena = Arena(1 << 20)
arena.view(4096, 5)[:] = b"bytes"
print(arena.path, flush=True)
sys.stdin.read()
"""


@given(st.lists(st.tuples(st.integers(0, 9 * PAGE), st.booleans()), max_size=40))
def test_regions_never_overlap_nor_leave_the_capacity_and_freed_neighbours_join(
    steps: list[tuple[int, bool]],
) -> None:
    allocator = Allocator(20 * PAGE + 5)
    taken: dict[int, int] = {}
    for nbytes, free in steps:
        if free and taken:
            offset = sorted(taken)[nbytes % len(taken)]
            allocator.free(offset)
            del taken[offset]
            continue
        pages = {page for at, size in taken.items() for page in range(at // PAGE, (at + size) // PAGE)}
        wanted = whole_pages(nbytes) // PAGE
        gaps = [at for at in range(21 - wanted) if pages.isdisjoint(range(at, at + wanted))]
        offset_or_none = allocator.allocate(nbytes)
        assert offset_or_none == (gaps[0] * PAGE if gaps else None)
        if offset_or_none is not None:
            taken[offset_or_none] = whole_pages(nbytes)


@pytest.mark.parametrize(("nbytes", "pages"), [(0, 1), (1, 1), (PAGE, 1), (PAGE + 1, 2)])
def test_an_image_takes_whole_pages(nbytes: int, pages: int) -> None:
    assert whole_pages(nbytes) == pages * PAGE


def test_where_something_would_go_can_be_asked_without_doing_it() -> None:
    allocator = Allocator(3 * PAGE)
    first, second, third = (allocator.allocate(PAGE) for _ in range(3))
    assert first == 0
    assert second is not None
    assert third is not None
    assert allocator.place(2 * PAGE) is None
    assert allocator.place(2 * PAGE, {first, third}) is None
    assert allocator.place(2 * PAGE, {second, third}) == second
    assert allocator.allocate(PAGE) is None


def test_what_is_written_is_there_for_those_who_attach() -> None:
    arena = Arena(4 * PAGE)
    arena.view(PAGE, 5)[:] = b"bytes"
    with attach(arena.path) as mapped, attach(arena.path, writable=True) as writable:
        assert (len(mapped), mapped[PAGE : PAGE + 5]) == (4 * PAGE, b"bytes")
        writable[PAGE : PAGE + 5] = b"other"
        assert bytes(arena.view(PAGE, 5)) == b"other"
        with pytest.raises(TypeError):
            mapped[0] = 1
    arena.close()


def test_another_process_sees_the_same_bytes() -> None:
    arena = Arena(2 * PAGE)
    arena.view(PAGE, 5)[:] = b"bytes"
    code = f"from symmoe.loading.arena import attach; print(attach({arena.path!r})[{PAGE}:{PAGE + 5}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    arena.close()
    assert done.stdout == "b'bytes'\n"


def test_nobody_can_shrink_a_memory_file_under_its_users() -> None:
    arena = Arena(2 * PAGE)
    with pytest.raises(PermissionError):
        os.truncate(arena.path, 0)
    arena.close()


def test_a_view_that_outlives_the_arena_stays_readable() -> None:
    arena = Arena(PAGE)
    view = arena.view(0, 5)
    view[:] = b"bytes"
    arena.close()
    arena.close()
    assert bytes(view) == b"bytes"
    with pytest.raises(ValueError, match="released"):
        arena.view()


def test_a_killed_process_leaves_nothing_behind() -> None:
    command = [sys.executable, "-c", HOLDER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        path = holder.stdout.readline().strip()
        mapped = attach(path)
        assert mapped[4096:4101] == b"bytes"
        holder.send_signal(signal.SIGKILL)
    assert mapped[4096:4101] == b"bytes"  # those attached keep it until they let go
    mapped.close()
    with pytest.raises(CheckpointError, match="no host tier to attach to"):
        attach(path)


def test_attaching_to_what_is_empty_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(CheckpointError, match="empty: no host tier"):
        attach(str(tmp_path / "empty"))


def test_more_than_the_memory_there_is_is_refused_before_any_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "memfd_create", lambda *_: pytest.fail("nothing should be created"))
    with pytest.raises(
        CapacityError, match=r"[\d,]+ bytes of memory are free, the host tier is to have 1,125,899,"
    ) as e:
        Arena(1 << 50)
    assert e.value.hint


def test_space_that_others_took_meanwhile_is_an_error_and_leaves_nothing_open(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[int] = []

    def full(fd: int, offset: int, nbytes: int) -> None:
        opened.append(fd)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(CapacityError, match=r"8,192 bytes of memory cannot be reserved .*No space left") as error:
        Arena(8192)
    assert error.value.hint
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(opened[0])


def test_an_arena_of_less_than_a_page_is_refused() -> None:
    with pytest.raises(CapacityError, match="holds nothing"):
        Arena(PAGE - 1)


def test_a_container_leaves_less_than_the_machine_has(tmp_path: Path) -> None:
    whole = available_memory(tmp_path)  # no control group there
    (tmp_path / "memory.max").write_text("1000000\n", encoding="utf-8")
    (tmp_path / "memory.current").write_text("900000\n", encoding="utf-8")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 5000\n", encoding="utf-8")
    assert available_memory(tmp_path) == 105_000 < whole
    (tmp_path / "memory.current").write_text("1900000\n", encoding="utf-8")
    assert available_memory(tmp_path) == 0
    (tmp_path / "memory.max").write_text("max\n", encoding="utf-8")
    assert available_memory(tmp_path) > 105_000


def test_of_a_machine_s_memory_a_container_has_what_it_is_allowed(tmp_path: Path) -> None:
    whole = installed_memory(tmp_path)
    assert whole >= available_memory(tmp_path)
    (tmp_path / "memory.max").write_text("max\n")
    assert installed_memory(tmp_path) == whole
    (tmp_path / "memory.max").write_text("105000\n")
    assert installed_memory(tmp_path) == 105_000


class FakeCudart:
    """Refuses an address that is registered, as CUDA does, and what goes beyond `limit` bytes."""

    def __init__(self, limit: int = 1 << 40) -> None:
        self.limit = limit
        self.registered: dict[int, int] = {}

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:  # noqa: N802
        if address in self.registered or sum(self.registered.values()) + size > self.limit:
            return 2
        self.registered[address] = size
        return 0

    def cudaHostUnregister(self, address: int) -> int:  # noqa: N802
        del self.registered[address]
        return 0


def test_memory_is_registered_whole_in_chunks_and_unregistered_after() -> None:
    cuda = FakeCudart()
    arena = Arena(5 * PAGE)
    arena.view(2 * PAGE, 1)[:] = b"x"
    with pinned(arena.view(), chunk=2 * PAGE, cudart=cuda) as done:
        assert done
        start = min(cuda.registered)
        assert cuda.registered == {start: 2 * PAGE, start + 2 * PAGE: 2 * PAGE, start + 4 * PAGE: PAGE}
        assert ctypes.string_at(start + 2 * PAGE, 1) == b"x"
    assert cuda.registered == {}
    arena.close()


def test_if_a_chunk_is_refused_none_stays_registered() -> None:
    cuda = FakeCudart(limit=3 * PAGE)
    arena = Arena(5 * PAGE)
    with (
        pytest.raises(CapacityError, match=r"cannot pin 8,192 bytes .*gave 2") as error,
        pinned(arena.view(), chunk=2 * PAGE, cudart=cuda),
    ):
        pytest.fail("the block should not run")
    assert error.value.hint
    assert cuda.registered == {}
    arena.close()


def test_what_fails_inside_leaves_nothing_registered() -> None:
    cuda = FakeCudart()
    arena = Arena(PAGE)
    with pytest.raises(ZeroDivisionError), pinned(arena.view(), cudart=cuda):
        raise ZeroDivisionError
    assert cuda.registered == {}
    arena.close()


def test_without_a_gpu_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pinned(memoryview(bytearray(PAGE))) as done:
        assert not done
