from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from symmoe.errors import EngineError
from symmoe.loading.sleep import BACKEND, HostImages, SleepingWeights, register_backend
from tests.loading.fake_memory import FakeMemory, two_weights_and_a_cache


def test_weights_come_back_bit_for_bit_every_time_and_were_copied_out_once() -> None:
    memory = two_weights_and_a_cache()
    sleeping = SleepingWeights(memory, {})
    for _ in range(3):
        sleeping.suspend()
        assert (sleeping.state, memory.device) == ("SUSPENDED", {})
        sleeping.resume()
        assert sleeping.state == "RUNNING"
        assert [memory.device[address] for address in (10, 20)] == [memory.blocks[a].content for a in (10, 20)]
    assert [block.copied_out for block in memory.blocks.values()] == [1, 1, 0]


def test_with_a_registered_image_nothing_is_ever_copied_out() -> None:
    memory = two_weights_and_a_cache()
    images: dict[str, HostImages] = {"weights": lambda address, size: memory.blocks[address].content}
    sleeping = SleepingWeights(memory, images)
    sleeping.suspend()
    sleeping.resume()
    assert all(memory.device[address] == memory.blocks[address].content for address in (10, 20))
    assert not any(block.copied_out for block in memory.blocks.values())


def test_where_the_host_has_no_image_of_an_allocation_that_one_is_copied_out() -> None:
    memory = two_weights_and_a_cache()
    sleeping = SleepingWeights(
        memory, {"weights": lambda address, size: memory.blocks[10].content if address == 10 else None}
    )
    sleeping.suspend()
    assert [block.copied_out for block in memory.blocks.values()] == [0, 1, 0]


def test_an_image_of_another_size_is_refused_before_anything_is_unmapped() -> None:
    memory = two_weights_and_a_cache()
    sleeping = SleepingWeights(memory, {"weights": lambda address, size: b"short"})
    with pytest.raises(EngineError, match="host image of 16 bytes of 'weights' has 5 bytes"):
        sleeping.suspend()
    assert (sleeping.state, len(memory.device)) == ("RUNNING", 3)


def test_when_the_host_is_full_the_engine_stays_awake() -> None:
    memory = two_weights_and_a_cache()
    sleeping = SleepingWeights(memory, {})
    memory.fails = {"copy_out": 1}
    with pytest.raises(EngineError, match="stays awake: copy_out failed"):
        sleeping.suspend()
    assert (sleeping.state, len(memory.device)) == ("RUNNING", 3)


@pytest.mark.parametrize("operation", ["map", "copy_in"])
def test_a_wake_that_fails_half_way_sleeps_on_and_may_be_tried_again(operation: str) -> None:
    memory = two_weights_and_a_cache()
    sleeping = SleepingWeights(memory, {})
    sleeping.suspend()
    memory.fails = {operation: 1}
    with pytest.raises(EngineError, match=f"did not wake and sleeps on: {operation} failed"):
        sleeping.resume()
    assert (sleeping.state, memory.device) == ("SUSPENDED", {})
    sleeping.resume()
    assert all(memory.device[address] == memory.blocks[address].content for address in (10, 20))


def test_an_interrupted_wake_is_undone_and_the_interrupt_goes_on() -> None:
    memory = two_weights_and_a_cache()
    sleeping = SleepingWeights(memory, {})
    sleeping.suspend()
    images = iter([None])

    def interrupted(address: int, image: bytes) -> None:
        if next(images, "spent") == "spent":
            raise KeyboardInterrupt
        memory.under_way.append((address, image))

    memory.copy_in = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        sleeping.resume()
    assert (sleeping.state, memory.device) == ("SUSPENDED", {})


def test_a_device_that_fails_while_waking_is_never_trusted_again() -> None:
    memory = two_weights_and_a_cache()
    sleeping = SleepingWeights(memory, {})
    sleeping.suspend()
    memory.wait = lambda: (_ for _ in ()).throw(RuntimeError("illegal access"))  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="failed while waking: illegal access"):
        sleeping.resume()
    for call in (sleeping.suspend, sleeping.resume, lambda: sleeping.discard(("weights",))):
        with pytest.raises(EngineError, match="in no known state"):
            call()
    assert sleeping.state == "SUSPENDED"


def test_weights_may_wake_before_the_cache_and_the_engine_is_not_running_until_both_did() -> None:
    memory = two_weights_and_a_cache()
    sleeping = SleepingWeights(memory, {})
    sleeping.suspend()
    sleeping.resume(["weights"])
    assert (sleeping.state, sorted(memory.device)) == ("SUSPENDED", [10, 20])
    sleeping.resume(["kv_cache"])
    assert sleeping.state == "RUNNING"


def test_after_level_two_the_new_weights_are_the_ones_that_come_back() -> None:
    memory = two_weights_and_a_cache()
    sleeping = SleepingWeights(memory, {})
    sleeping.suspend()
    sleeping.resume()
    sleeping.suspend(level=2)
    sleeping.resume()
    memory.device[10] = b"other weights..."
    sleeping.suspend()
    sleeping.resume()
    assert memory.device[10] == b"other weights..."


def test_discarded_weights_have_no_image_left() -> None:
    memory = two_weights_and_a_cache()
    sleeping = SleepingWeights(memory, {})
    sleeping.suspend()
    sleeping.resume()
    sleeping.discard(("weights",))
    assert sorted(memory.device) == [30]
    assert all(block.cpu_backup_tensor is None for block in memory.blocks.values())


def test_weights_that_sleep_cannot_be_forgotten() -> None:
    memory = two_weights_and_a_cache()
    sleeping = SleepingWeights(memory, {})
    sleeping.suspend()
    with pytest.raises(EngineError, match="cannot be forgotten"):
        sleeping.forget()
    sleeping.resume()
    assert memory.device[10] == memory.blocks[10].content


def test_where_vllm_has_no_sleep_backends_there_is_nothing_to_register(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("vllm", "vllm.device_allocator"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.delitem(sys.modules, "vllm.device_allocator.sleep_mode_backend", raising=False)
    assert not register_backend()


def test_the_backend_is_registered_once_by_its_name_and_place(monkeypatch: pytest.MonkeyPatch) -> None:
    registered: dict[str, tuple[str, str]] = {}

    def register(name: str, module: str, of: str) -> None:
        if name in registered:
            raise ValueError("already registered")
        registered[name] = (module, of)

    known = SimpleNamespace(__module__="symmoe.loading.cumem")
    factory = SimpleNamespace(register_backend=register, get_backend_class=lambda name: known)
    backends = ModuleType("vllm.device_allocator.sleep_mode_backend")
    backends.SleepModeBackendFactory = factory  # type: ignore[attr-defined]
    for name in ("vllm", "vllm.device_allocator"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, backends.__name__, backends)
    assert register_backend()
    assert register_backend()
    assert registered == {BACKEND: ("symmoe.loading.cumem", "ImmutableCuMemBackend")}
    known.__module__ = "someone.elses"
    assert not register_backend()


@pytest.mark.slow
def test_the_installed_vllm_takes_the_backend_for_one_of_its_own() -> None:
    backends = pytest.importorskip("vllm.device_allocator.sleep_mode_backend")
    import torch

    assert register_backend()
    backend = backends.SleepModeBackendFactory.get_backend_class(BACKEND)
    assert issubclass(backend, backends.SleepModeBackend)
    assert not backend.__abstractmethods__
    assert backend.is_supported() == torch.cuda.is_available()


TAGS = st.sampled_from(["weights", "weights", "kv_cache", "other"])


class Sleeping(RuleBasedStateMachine):
    """The engine, and what its memory should hold."""

    @initialize(sizes=st.lists(st.integers(0, 64), min_size=1, max_size=4))
    def start(self, sizes: list[int]) -> None:
        self.memory = FakeMemory()
        self.sleeping = SleepingWeights(self.memory, {})
        self.broken = False
        for address, size in enumerate(sizes):
            self.memory.allocate(address, "weights", size)
        self.memory.allocate(100, "kv_cache", 32)

    @precondition(lambda self: not self.broken)
    @rule(address=st.integers(0, 8), tag=TAGS, size=st.integers(0, 64))
    def allocate_where_nothing_is_or_something_was(self, address: int, tag: str, size: int) -> None:
        if address not in self.memory.blocks or not self.memory.blocks[address].is_asleep:
            self.memory.allocate(address, tag, size)

    @rule(level=st.sampled_from([1, 1, 1, 2]))
    def sleep(self, level: int) -> None:
        awake = [block for block in self.memory.blocks.values() if not block.is_asleep]
        try:
            self.sleeping.suspend(level)
        except EngineError:
            self._note_failure()
        for block in awake:
            if block.tag != "weights" or (level == 2 and block.is_asleep):
                block.content = None
                block.changes += 1
        if not self.broken:
            assert self.sleeping.state == "SUSPENDED" or not any(b.is_asleep for b in self.memory.blocks.values())

    @rule(tags=st.sampled_from([None, ["weights"], ["kv_cache"], ["weights", "kv_cache", "other"]]))
    def wake(self, tags: list[str] | None) -> None:
        asleep = [block for block in self.memory.blocks.values() if block.is_asleep]
        try:
            self.sleeping.resume(tags)
        except EngineError:
            self._note_failure()
            if not self.broken:
                assert all(block.is_asleep for block in asleep), "a failed wake left some awake"
        else:
            assert not any(b.is_asleep for b in self.memory.blocks.values() if tags is None or b.tag in tags)

    @precondition(lambda self: not self.broken and self.sleeping.state == "RUNNING")
    @rule()
    def change_the_weights(self) -> None:
        for address, block in self.memory.blocks.items():
            block.content = self.memory.numbers.randbytes(block.handle[1])
            block.changes += 1
            self.memory.device[address] = block.content
        self.sleeping.forget()

    @rule(operation=st.sampled_from(["map", "unmap", "copy_out", "copy_in", "wait"]), after=st.integers(0, 3))
    def let_something_fail_soon(self, operation: str, after: int) -> None:
        self.memory.fails = {operation: after}

    @invariant()
    def what_is_awake_holds_what_it_should(self) -> None:
        if self.broken:
            return
        assert not self.memory.under_way, "it returned before its copies were done"
        for address, block in self.memory.blocks.items():
            assert block.is_asleep == (address not in self.memory.device)
            if not block.is_asleep and block.content is not None:
                assert self.memory.device[address] == block.content

    @invariant()
    def unchanged_weights_are_copied_out_at_most_once_and_nothing_else_ever(self) -> None:
        for block in self.memory.blocks.values():
            assert block.copied_out <= (1 + block.changes if block.tag == "weights" else 0)

    @invariant()
    def the_engine_runs_only_when_nothing_sleeps(self) -> None:
        asleep = any(block.is_asleep for block in self.memory.blocks.values())
        assert self.sleeping.state == ("SUSPENDED" if asleep or self.broken else "RUNNING")

    def _note_failure(self) -> None:
        """After a failure it either goes on, or refuses everything for good."""
        self.memory.fails = {}
        try:
            self.sleeping.resume([])
        except EngineError as error:
            assert "no known state" in str(error)  # noqa: PT017
            self.broken = True


TestSleeping = Sleeping.TestCase
TestSleeping.settings = settings(stateful_step_count=25)
