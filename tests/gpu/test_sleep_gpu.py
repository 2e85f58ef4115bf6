"""The sleep backend on vLLM's own CuMem allocator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from symmoe.loading.sleep import BACKEND, host_images, register_backend

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
MIB = 1 << 20


@pytest.fixture
def backend() -> Any:
    backends = pytest.importorskip("vllm.device_allocator.sleep_mode_backend", reason="this vLLM has no sleep backends")
    assert register_backend()
    kind = backends.SleepModeBackendFactory.get_backend_class(BACKEND)
    if not kind.is_supported():
        pytest.skip("vLLM's CuMem allocator is not available")
    return kind()


@pytest.fixture
def tensors(backend: Any) -> Iterator[dict[str, torch.Tensor]]:
    """Two weights and a KV cache in vLLM's pool, freed while they are mapped."""
    from vllm.device_allocator.cumem import CuMemAllocator

    allocator = CuMemAllocator.get_instance()
    made: dict[str, torch.Tensor] = {}
    with allocator.use_memory_pool(tag="weights"):
        made["w"] = torch.randn(64 * MIB, device="cuda")
        made["v"] = torch.randn(3 * MIB + 7, device="cuda").to(torch.bfloat16)
    with allocator.use_memory_pool(tag="kv_cache"):
        made["kv"] = torch.randn(64 * MIB, device="cuda")
    yield made
    if backend.state() != "RUNNING":
        backend.resume()
    made.clear()
    host_images.clear()


def images() -> dict[int, Any]:
    from vllm.device_allocator.cumem import CuMemAllocator

    held = CuMemAllocator.get_instance().pointer_to_data
    return {address: data.cpu_backup_tensor for address, data in held.items() if data.tag == "weights"}


def test_weights_sleep_off_the_device_and_wake_bit_for_bit_where_they_were(
    backend: Any, tensors: dict[str, torch.Tensor]
) -> None:
    wanted = {name: tensors[name].cpu() for name in ("w", "v")}
    places = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    kept = None
    for _ in range(3):
        before = torch.cuda.mem_get_info()[0]
        backend.suspend(1)
        assert torch.cuda.mem_get_info()[0] - before >= 500 * MIB
        backend.resume()
        assert backend.state() == "RUNNING"
        assert all(torch.equal(tensors[name].cpu(), bits) for name, bits in wanted.items())
        assert {name: tensor.data_ptr() for name, tensor in tensors.items()} == places
        again = {address: image.data_ptr() for address, image in images().items()}
        assert kept is None or again == kept, "an image was made anew"
        kept = again


def test_weights_wake_without_the_cache_and_the_cache_may_follow(
    backend: Any, tensors: dict[str, torch.Tensor]
) -> None:
    wanted = tensors["w"].cpu()
    backend.suspend(1)
    backend.resume(["weights"])
    assert backend.state() == "SUSPENDED"
    assert torch.equal(tensors["w"].cpu(), wanted)
    backend.resume(["kv_cache"])
    assert backend.state() == "RUNNING"
    tensors["kv"].fill_(1.0)
    assert float(tensors["kv"].sum()) == 64 * MIB


def test_from_a_registered_image_weights_wake_without_ever_having_been_copied_out(
    backend: Any, tensors: dict[str, torch.Tensor]
) -> None:
    backend.suspend(1)
    backend.resume()
    ready = dict(images())
    backend.forget()
    assert not any(image is not None for image in images().values())
    wanted = tensors["w"].cpu()
    host_images["weights"] = lambda address, size: ready[address]
    backend.suspend(1)
    backend.resume()
    assert all(image is ready[address] for address, image in images().items())
    assert torch.equal(tensors["w"].cpu(), wanted)


def test_after_a_wake_that_fails_the_engine_sleeps_on_and_wakes_when_there_is_room(
    backend: Any, tensors: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    import symmoe.loading.cumem as cumem
    from symmoe.errors import EngineError

    wanted = tensors["v"].cpu()
    backend.suspend(1)
    calls = iter(range(10))

    def full(handle: Any, real: Any = cumem.create_and_map) -> None:
        if next(calls) == 1:
            raise RuntimeError("out of memory")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(cumem, "create_and_map", full)
        with pytest.raises(EngineError, match="sleeps on: out of memory"):
            backend.resume()
    assert backend.state() == "SUSPENDED"
    backend.resume()
    assert torch.equal(tensors["v"].cpu(), wanted)
