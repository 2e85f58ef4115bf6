from __future__ import annotations

from typing import Any

import pytest
import torch

from symmoe.loading.collectives.carriers import Carrier, GlooCarrier, NcclCarrier, Parcel

PLACE = torch.empty(4, dtype=torch.uint8)
RECEIVES: list[Parcel] = [(0, 3, PLACE), (2, 4, PLACE)]
SENDS: list[Parcel] = [(1, 5, PLACE), (2, 6, PLACE)]


class Done:
    """An operation that is complete, well or not."""

    def __init__(self, failed: bool = False) -> None:
        self._failed = failed

    def is_completed(self) -> bool:
        return True

    def wait(self, *_: Any) -> bool:
        if self._failed:
            raise RuntimeError("the other end is gone")
        return True


class Transport:
    """Refuses some operations with some peers, and has others fail once they were begun."""

    def __init__(self, refused: tuple[tuple[str, int], ...] = (), failed: bool = False) -> None:
        self.log: list[tuple[str, int, int]] = []
        self._refused = refused
        self._failed = failed

    def send(self, tensors: list[torch.Tensor], peer: int, tag: int) -> Done:
        return self._do("send", peer, tag)

    def recv(self, tensors: list[torch.Tensor], peer: int, tag: int) -> Done:
        return self._do("recv", peer, tag)

    def _start_coalescing(self) -> None:
        pass

    def _end_coalescing(self) -> Done:
        return Done(self._failed)

    def _do(self, what: str, peer: int, tag: int) -> Done:
        if (what, peer) in self._refused:
            raise RuntimeError("closed")
        self.log.append((what, peer, tag))
        return Done(self._failed)


@pytest.mark.parametrize(
    ("refused", "lost"),
    [((), None), ((("recv", 2),), (2, 4)), ((("send", 2),), (2, 6)), ((("send", 1),), (1, 5))],
)
def test_the_peer_whose_connection_is_closed_is_the_one_named(
    refused: tuple[tuple[str, int], ...], lost: tuple[int, int] | None
) -> None:
    assert GlooCarrier(Transport(refused)).exchange(SENDS, RECEIVES, []) == lost


def test_each_chunk_is_followed_and_answered_and_no_two_messages_share_a_tag() -> None:
    transport = Transport()
    carrier = GlooCarrier(transport)
    handles: list[Any] = []
    carrier.exchange(SENDS, RECEIVES, handles)
    while handles:
        assert carrier.wait(handles, lambda: False)
    messages = len(SENDS) + len(RECEIVES)
    assert len(set(transport.log)) == len(transport.log) == 3 * messages


@pytest.mark.parametrize("carrier", [GlooCarrier(Transport(failed=True)), NcclCarrier(Transport(failed=True))])
def test_what_fails_is_told_and_its_handle_kept(carrier: Carrier) -> None:
    handles: list[Any] = []
    assert carrier.exchange(SENDS, [], handles) is None
    before = len(handles)
    assert not carrier.wait(handles, lambda: False)
    assert len(handles) == before


def test_nccl_is_asked_for_nothing_where_nothing_moves() -> None:
    handles: list[Any] = []
    assert NcclCarrier(None).exchange([], [], handles) is None
    assert handles == []
