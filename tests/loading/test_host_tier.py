from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from symmoe.errors import CapacityError, CheckpointError
from symmoe.loading.arena import PAGE, attach
from symmoe.loading.host_tier import HostTier

from .fake_images import FakeSource, content
from .test_eviction import fewest_misses


@pytest.fixture
def source() -> FakeSource:
    return FakeSource.of_pages(a=1, b=1, c=1, d=1, two=2, three=3, nine=9)


@pytest.fixture
def tier(source: FakeSource) -> Iterator[HostTier]:
    """Room for three images of one page."""
    with HostTier(3 * PAGE, source) as tier:
        yield tier


def used(tier: HostTier, *keys: str) -> list[bool]:
    """Use each in turn; whether it was a hit."""
    hits = []
    for key in keys:
        with tier.use(key) as held:
            assert bytes(held.view) == content(key, held.nbytes)
            hits.append(held.hit)
    return hits


def test_an_image_is_made_once_and_there_from_then_on(tier: HostTier, source: FakeSource) -> None:
    assert used(tier, "a", "a", "b", "a") == [False, True, False, True]
    assert source.fills == {"a": 1, "b": 1}
    assert tier.resident == {"a": PAGE, "b": PAGE}
    assert tier.used == 2 * PAGE
    stats = tier.stats
    assert (stats.hits, stats.joined, stats.misses, stats.bytes_filled) == (2, 0, 2, 2 * PAGE)
    assert stats.seconds_filling > 0


@pytest.mark.parametrize("inside", [None, "tmp"])
def test_other_processes_find_the_bytes_where_held_says(inside: str | None, source: FakeSource, tmp_path: Path) -> None:
    with HostTier(3 * PAGE, source, tmp_path if inside else None) as tier, tier.use("b"), tier.use("a") as held:
        assert (held.path, held.offset, held.nbytes) == (tier.path, PAGE, PAGE)
        with attach(held.path) as mapped:
            assert mapped[held.offset : held.offset + held.nbytes] == content("a", PAGE)


def test_what_is_held_cannot_be_written_to_and_ends_with_the_block(tier: HostTier) -> None:
    with tier.use("a") as held, pytest.raises(TypeError):
        held.view[0] = 1
    with pytest.raises(ValueError, match="released"):
        bytes(held.view)


def test_an_array_over_an_image_does_not_break_the_end_of_its_use_nor_of_the_tier(source: FakeSource) -> None:
    with HostTier(3 * PAGE, source) as tier, tier.use("a") as held:
        array = np.frombuffer(held.view, np.uint8)
    assert array.tobytes() == content("a", PAGE)


def test_with_no_order_known_the_least_recently_used_makes_room(tier: HostTier) -> None:
    used(tier, "a", "b", "c", "a", "d")
    assert set(tier.resident) == {"a", "c", "d"}
    assert tier.stats.evictions == 1


def test_with_the_order_known_what_is_needed_last_makes_room(tier: HostTier) -> None:
    tier.expect(["a", "b", "c", "d", "a", "b"])
    used(tier, "a", "b", "c", "d")
    assert set(tier.resident) == {"a", "b", "d"}
    assert used(tier, "a", "b") == [True, True]


@given(trace=st.text(alphabet="abcde", min_size=1, max_size=9), frames=st.integers(1, 3))
def test_in_a_known_order_no_policy_fills_less_often(trace: str, frames: int) -> None:
    source = FakeSource.of_pages(a=1, b=1, c=1, d=1, e=1)
    with HostTier(frames * PAGE, source) as tier:
        tier.expect(trace)
        used(tier, *trace)
        assert tier.stats.misses == fewest_misses(trace, frames)


def test_what_is_prefetched_is_there_when_it_is_used(tier: HostTier, source: FakeSource) -> None:
    assert tier.prefetch("a").result(30) is True
    assert used(tier, "a") == [True]
    assert tier.prefetch("a").result(30) is True
    assert source.fills == {"a": 1}
    assert tier.stats.prefetched == 1


def test_a_prefetch_pushes_out_what_is_needed_after_it_and_nothing_else(tier: HostTier) -> None:
    used(tier, "a", "b", "c")
    tier.expect(["a", "b", "d", "c"])
    assert tier.prefetch("d").result(30) is True
    assert set(tier.resident) == {"a", "b", "d"}
    assert tier.prefetch("c").result(30) is False
    assert set(tier.resident) == {"a", "b", "d"}
    assert (tier.stats.prefetched, tier.stats.declined) == (1, 1)


def test_a_prefetch_that_is_declined_pushes_out_nothing_on_the_way(tier: HostTier) -> None:
    used(tier, "a", "b", "c")
    tier.expect(["a", "two", "b"])
    tier.pin("c")
    assert tier.prefetch("two").result(30) is False
    assert set(tier.resident) == {"a", "b", "c"}


def test_what_is_pinned_stays_until_it_is_unpinned_as_often(tier: HostTier) -> None:
    tier.pin("a")
    tier.pin("a")
    used(tier, "a", "b", "c", "d")
    tier.unpin("a")
    used(tier, "b", "c", "d", "two")
    assert "a" in tier.resident
    assert tier.evict("a") is False
    tier.unpin("a")
    used(tier, "three")
    assert set(tier.resident) == {"three"}
    with pytest.raises(ValueError, match="a is not pinned"):
        tier.unpin("a")


def test_evicting_drops_what_is_there_and_free(tier: HostTier) -> None:
    with tier.use("a"):
        assert tier.evict("a") is False
    assert tier.evict("a") is True
    assert tier.evict("a") is False
    assert (tier.used, used(tier, "a")) == (0, [False])


def test_room_in_pieces_is_made_whole_without_pushing_out_what_does_not_help(tier: HostTier) -> None:
    used(tier, "a", "b", "c")
    tier.evict("b")
    tier.expect(["c", "a"])
    used(tier, "two")  # with c gone it fits as well, but a is needed later
    assert set(tier.resident) == {"two", "c"}
    tier.evict("two")
    used(tier, "a", "b")
    tier.evict("a")
    tier.expect(["b", "c"])
    used(tier, "two")  # c is needed last, but its bytes do not help
    assert set(tier.resident) == {"two", "c"}


def test_an_image_larger_than_the_budget_is_an_error_that_says_both(tier: HostTier) -> None:
    used(tier, "a")
    with pytest.raises(CapacityError, match=r"nine needs 36,864 bytes, the host tier has 12,288") as error:
        used(tier, "nine")
    assert error.value.hint == "give the host tier 36,864 bytes or more"
    with pytest.raises(CapacityError, match="nine needs"):
        tier.prefetch("nine").result(30)
    assert set(tier.resident) == {"a"}


def test_with_everything_in_use_a_use_is_an_error_and_a_prefetch_declined(tier: HostTier) -> None:
    tier.pin("c")
    used(tier, "c")
    with tier.use("a"), tier.use("b"):
        with pytest.raises(CapacityError, match=r"no room for d \(4,096 bytes\).* beside .*: a, b, c$") as error:
            used(tier, "d")
        assert error.value.hint
        assert tier.prefetch("d").result(30) is False
    assert used(tier, "d") == [False]


def test_a_fill_that_fails_reserves_nothing_and_is_tried_again(tier: HostTier, source: FakeSource) -> None:
    source.errors["a"] = [CheckpointError("a: truncated"), CheckpointError("a: truncated")]
    with pytest.raises(CheckpointError, match="a: truncated"):
        used(tier, "a")
    with pytest.raises(CheckpointError, match="a: truncated"):
        tier.prefetch("a").result(30)
    assert (tier.used, dict(tier.resident)) == (0, {})
    assert used(tier, "a") == [False]


def test_a_source_that_fails_reserves_nothing_and_is_asked_again(tier: HostTier, source: FakeSource) -> None:
    with pytest.raises(KeyError, match="unheard"):
        used(tier, "unheard")
    with pytest.raises(KeyError, match="unheard"):
        tier.prefetch("unheard").result(30)
    source.sizes = {"unheard": PAGE}
    assert tier.prefetch("unheard").result(30) is True


def test_closing_twice_is_safe_and_nothing_can_be_asked_after(source: FakeSource) -> None:
    tier = HostTier(3 * PAGE, source)
    used(tier, "a")
    tier.close()
    tier.close()
    with pytest.raises(ValueError, match="closed"):
        used(tier, "a")
    with pytest.raises(ValueError, match="closed"):
        tier.prefetch("a")
    with pytest.raises(CheckpointError):
        attach(tier.path)


def test_a_tier_that_is_dropped_without_being_closed_gives_its_memory_back(source: FakeSource) -> None:
    before = set(threading.enumerate())
    tiers = [HostTier(3 * PAGE, source)]
    tiers[0].prefetch("a").result(30)
    (fetcher,) = set(threading.enumerate()) - before
    path = tiers[0].path

    def drop() -> None:
        tiers.clear()
        fetcher.join(30)

    with pytest.warns(ResourceWarning, match="unclosed"):
        drop()
    assert not fetcher.is_alive()
    with pytest.raises(CheckpointError):
        attach(path)


def test_a_budget_that_the_machine_does_not_have_is_an_error_at_once(source: FakeSource) -> None:
    with pytest.raises(CapacityError, match="are free, the host tier is to have"):
        HostTier(1 << 50, source)
