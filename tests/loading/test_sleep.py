"""Sleep and wake on a stand-in for device memory, and the backend's registration with vLLM."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from symmoe.errors import EngineError
from symmoe.loading.sleep import BACKEND, HostImages, SleepingWeights, register_backend

from .fake_memory import two_weights_and_a_cache


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
