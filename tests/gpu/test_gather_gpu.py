"""Gathering onto GPUs: through pinned memory on one, over NCCL on two or more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch.distributed import HashStore, TCPStore

from symmoe.errors import CollectiveError
from symmoe.loading.collectives.gather import sparse_all_gather
from symmoe.loading.collectives.group import open_group
from symmoe.loading.collectives.plan import GatherPlan
from tests.loading.collectives.ranks import MemorySource, chunks_of, in_processes, note, planned

pytestmark = pytest.mark.gpu
GPUS = torch.cuda.device_count()
CHUNKS = chunks_of(*[1 << 16] * 13, 100, 0)
DEMANDS = {"all": [range(15)] * 2, "some": [range(15), {0, 5}], "one": [set(), {1, 14}]}
needs_two = pytest.mark.skipif(GPUS < 2, reason="needs two GPUs")


def on_gpu(plan: GatherPlan, rank: int) -> dict[int, torch.Tensor]:
    return {chunk: torch.zeros(plan.sizes[chunk], dtype=torch.uint8, device="cuda") for chunk in plan.demand[rank]}


def arrived(out: dict[int, torch.Tensor]) -> bool:
    return all(bytes(place.tolist()) == CHUNKS[chunk] for chunk, place in out.items())


@pytest.mark.skipif(GPUS < 1, reason="needs a GPU")
@pytest.mark.parametrize("depth", [1, 3])
def test_chunks_are_read_onto_one_gpu_through_pinned_buffers_used_again(depth: int) -> None:
    plan = planned([range(15)], CHUNKS, "independent")
    out = on_gpu(plan, 0)
    with open_group(HashStore(), 0, 1, device="cuda:0") as group:
        sparse_all_gather(out, plan, MemorySource(CHUNKS), group, depth=depth)
    assert arrived(out)


def _gather(rank: int, folder: str, port: int, plan: GatherPlan, faulty: int | None) -> None:
    def fails(buffer: memoryview) -> None:
        raise OSError(5, "Input/output error")

    torch.cuda.set_device(rank)
    out = on_gpu(plan, rank)
    source = MemorySource(CHUNKS, {} if faulty is None else {faulty: fails})
    with open_group(TCPStore("127.0.0.1", port), rank, 2, backend="nccl", device=f"cuda:{rank}") as group:
        for _ in range(2):
            try:
                sparse_all_gather(out, plan, source, group, timeout=20)
            except CollectiveError as error:
                note(folder, rank, json.dumps([error.rank, error.chunk]))
                return
    note(folder, rank, json.dumps(arrived(out)))


@needs_two
@pytest.mark.parametrize("demand", list(DEMANDS))
def test_gpus_gather_over_nccl(tmp_path: Path, demand: str) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    plan = planned(DEMANDS[demand], CHUNKS)
    assert in_processes(2, _gather, str(tmp_path), store.port, plan, None) == [0, 0]
    assert [json.loads((tmp_path / f"rank-{rank}").read_text()) for rank in range(2)] == [True, True]


@needs_two
def test_a_rank_that_cannot_read_ends_the_others_over_nccl(tmp_path: Path) -> None:
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    plan = planned(DEMANDS["all"], CHUNKS)
    faulty = plan.rounds[1][1].chunk
    assert in_processes(2, _gather, str(tmp_path), store.port, plan, faulty) == [0, 0]
    assert [json.loads((tmp_path / f"rank-{rank}").read_text()) for rank in range(2)] == [[1, faulty]] * 2
