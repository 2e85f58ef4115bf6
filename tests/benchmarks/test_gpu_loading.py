"""What the GPU benchmark does apart from CUDA: its shapes, its clockwork, its report, and its trials on the CPU."""

from __future__ import annotations

import ctypes
import json
import time
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu_loading.batch_copy import Attributes, find_batch_copy
from benchmarks.gpu_loading.cells import CELLS, Cell
from benchmarks.gpu_loading.dense import chunked
from benchmarks.gpu_loading.main import main
from benchmarks.gpu_loading.place import Cpu
from benchmarks.gpu_loading.report import compared, rows
from benchmarks.gpu_loading.shapes import ALIGNMENT, Packing, adapter, model, scaled
from benchmarks.gpu_loading.source import Bench, pinned
from benchmarks.gpu_loading.trial import Trial, UnavailableError, WrongBitsError, compare, summary, times
from symmoe.loading.scatter import scatter

SHAPES = st.dictionaries(
    st.text("ab.", min_size=1, max_size=4), st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple), max_size=6
)


def test_the_whole_model_is_llama_3_8b() -> None:
    packing = Packing(model(scaled(1.0)))
    assert len(packing.shapes) == 291
    assert packing.payload == 2 * 8_030_261_248


def test_an_adapter_has_two_matrices_for_each_of_seven_projections_of_each_layer() -> None:
    shapes = adapter(scaled(1.0), rank=16)
    assert len(shapes) == 2 * 7 * 32
    assert shapes["model.layers.31.mlp.down_proj.lora_A"] == (16, 14336)
    assert shapes["model.layers.0.self_attn.k_proj.lora_B"] == (1024, 16)


@pytest.mark.parametrize("scale", [0.5, 0.1, 1 / 32, 0.01, 0.001])
def test_a_scaled_model_has_about_that_share_of_the_bytes(scale: float) -> None:
    whole, part = Packing(model(scaled(1.0))), Packing(model(scaled(scale)))
    assert part.payload / whole.payload == pytest.approx(scale, rel=0.25)


@given(shapes=SHAPES)
def test_packed_tensors_are_aligned_and_share_no_byte(shapes: dict[str, tuple[int, ...]]) -> None:
    packing = Packing(shapes)
    buffer = torch.zeros(packing.nbytes, dtype=torch.uint8)
    for view in packing.views(buffer).values():
        assert (view.data_ptr() - buffer.data_ptr()) % ALIGNMENT == 0
        view.view(torch.int16).add_(1)
    assert int(buffer.view(torch.int16).sum()) == sum(prod(shape) for shape in shapes.values())
    assert packing.payload <= packing.nbytes < packing.payload + ALIGNMENT * (len(shapes) + 1)


@given(shapes=SHAPES, chunk=st.integers(1, 4).map(lambda number: number * ALIGNMENT))
def test_the_chunks_together_hold_every_tensor(shapes: dict[str, tuple[int, ...]], chunk: int) -> None:
    packing = Packing(shapes)
    image = torch.randint(0, 256, (packing.nbytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    targets = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    for number, pieces in enumerate(chunked(packing, targets, chunk)):
        scatter(image[number * chunk : (number + 1) * chunk].clone(), pieces)
    compare(targets, packing.views(image))


def test_one_wrong_bit_is_found_and_nans_are_bits_like_others() -> None:
    wanted = {"w": torch.full((5,), float("nan"), dtype=torch.bfloat16), "v": torch.zeros(8)}
    got = {name: tensor.clone() for name, tensor in wanted.items()}
    compare(got, wanted)
    got["v"][3] = -0.0
    with pytest.raises(WrongBitsError, match="v was loaded wrong"):
        compare(got, wanted)
    with pytest.raises(WrongBitsError, match="1 tensors were loaded, 2 were wanted"):
        compare({"w": wanted["w"]}, wanted)


def test_a_summary_has_the_median_the_extremes_and_the_bandwidth() -> None:
    row = summary([0.5, 0.2, 0.4], 800_000_000)
    assert (row["median_s"], row["min_s"], row["max_s"], row["rounds"]) == (0.4, 0.2, 0.5, 3)
    assert row["gb_per_s"] == 2.0


def test_the_first_run_is_not_counted_and_what_was_there_before_never_passes_for_loaded() -> None:
    target, calls = torch.zeros(4), iter(range(100))

    def run() -> Mapping[str, torch.Tensor]:
        if next(calls) < 3:
            target.fill_(1.0)
        return {"w": target}

    trial = Trial(run, {"w": torch.ones(4)}, 16, [target], seconds=lambda: float(next(calls)))
    assert times(trial, Cpu(), 1) == [3.0]
    with pytest.raises(WrongBitsError):
        times(trial, Cpu(), 1)


def good(seconds: float = 1.0) -> Callable[[Bench], Trial]:
    return lambda bench: Trial(lambda: {"w": torch.ones(1)}, {"w": torch.ones(1)}, 10**9, seconds=lambda: seconds)


def unavailable(bench: Bench) -> Trial:
    raise UnavailableError("not here")


def broken(bench: Bench) -> Trial:
    raise RuntimeError("out of memory")


def wrong(bench: Bench) -> Trial:
    return Trial(lambda: {"w": torch.zeros(1)}, {"w": torch.ones(1)}, 1)


def bench_on(place: Any) -> Any:
    return SimpleNamespace(place=place)


def test_a_cell_that_fails_costs_only_itself_and_says_why() -> None:
    cells = [
        Cell("r", "", "a", good(), risky=True),
        Cell("b", "", "a", broken),
        Cell("u", "", "a", unavailable),
        Cell("w", "", "a", wrong),
        Cell("a", "", "a", good(2.0)),
    ]
    found = list(rows(cells, bench_on(Cpu()), 7, time.monotonic() + 100))
    assert [row["cell"] for row in found] == ["b", "u", "w", "a", "r"]
    assert [row["status"] for row in found] == ["failed", "skipped", "failed", "ok", "ok"]
    assert [row.get("reason") for row in found[:3]] == ["RuntimeError: out of memory", "not here", "w was loaded wrong"]
    table = compared(found, [cell.name for cell in cells], peak_gb_per_s=2.0)
    assert [row["cell"] for row in table] == ["r", "b", "u", "w", "a"]
    assert (table[0]["speedup"], table[0]["efficiency"]) == (2.0, 0.5)
    assert "speedup" not in table[1]


def test_without_a_baseline_or_a_peak_there_is_no_ratio() -> None:
    found = list(rows([Cell("a", "", "other", good())], bench_on(Cpu()), 7, time.monotonic() + 100))
    (row,) = compared(found, ["a"], peak_gb_per_s=None)
    assert (row["speedup"], row["efficiency"]) == (None, None)


def test_cells_after_the_deadline_or_after_a_device_that_died_are_skipped() -> None:
    late = list(rows([Cell("a", "", "a", good())], bench_on(Cpu()), 7, time.monotonic() - 1))
    assert [(row["status"], row["reason"]) for row in late] == [("skipped", "the time budget was spent")]

    class Dying(Cpu):
        def release(self) -> None:
            raise RuntimeError("illegal memory access\nmore")

    after = list(rows([Cell("a", "", "a", good()), Cell("b", "", "a", good())], bench_on(Dying()), 7, 1e18))
    assert [row["status"] for row in after] == ["ok", "skipped"]
    assert after[1]["reason"] == "memory was not freed after cell a: illegal memory access"


def test_where_pages_of_a_file_cannot_be_pinned_a_copy_is_used_and_the_report_says_so() -> None:
    class Refusing(Cpu):
        def pin(self, tensor: torch.Tensor) -> None:
            raise RuntimeError("cudaHostRegister of 3 bytes failed with error 801")

    stored = torch.tensor([1, 2, 3], dtype=torch.uint8)
    image, told = pinned(stored, Refusing())  # type: ignore[arg-type]
    assert image.tolist() == [1, 2, 3]
    assert image.data_ptr() != stored.data_ptr()
    assert "error 801" in told["how"]
    same, told = pinned(stored, Cpu())
    assert same is stored
    assert told["bytes"] == 3


class Runtime:
    """A stand-in for libcudart of one version: real C calling convention, `memmove` instead of a GPU."""

    def __init__(self, version: int, code: int = 0) -> None:
        self.version, self.streams = version, []
        pointer, size = ctypes.c_void_p, ctypes.c_size_t
        tail = [pointer] if version < 13000 else []
        arguments = [pointer, pointer, pointer, size, pointer, pointer, size, *tail, pointer]

        def copy(*given: Any) -> int:
            targets, sources, sizes, first = (
                ctypes.cast(given[n], ctypes.POINTER(ctypes.c_size_t)) for n in (0, 1, 2, 5)
            )
            attributes = Attributes.from_address(given[4])
            assert (attributes.order, attributes.flags, first[0], given[6]) == (1, 0, 0, 1)
            self.streams.append(given[-1])
            for n in range(given[3]):
                ctypes.memmove(targets[n], sources[n], sizes[n])
            return code

        self.cudaMemcpyBatchAsync = ctypes.CFUNCTYPE(ctypes.c_int, *arguments)(copy)

    def cudaRuntimeGetVersion(self, version: Any) -> None:  # noqa: N802
        version._obj.value = self.version


@pytest.fixture
def buffers() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(32, dtype=torch.uint8), torch.zeros(32, dtype=torch.uint8)


@pytest.mark.parametrize("version", [12080, 13000, 13010])
def test_a_batch_of_copies_is_passed_as_each_version_of_cuda_wants_it(
    version: int, buffers: tuple[torch.Tensor, torch.Tensor]
) -> None:
    source, target = buffers
    runtime = Runtime(version)
    copies = [(target.data_ptr() + 20, source.data_ptr(), 5), (target.data_ptr(), source.data_ptr() + 30, 2)]
    find_batch_copy(runtime)(copies, 0x7F00)
    assert target.tolist() == [30, 31, *[0] * 18, 0, 1, 2, 3, 4, *[0] * 7]
    assert runtime.streams == [0x7F00]
    assert ctypes.sizeof(Attributes) == 24


def test_a_batch_that_cuda_refuses_and_a_runtime_without_batches_are_told_apart() -> None:
    byte = torch.zeros(1, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="failed with error 1"):
        find_batch_copy(Runtime(13000, code=1))([(byte.data_ptr(), byte.data_ptr(), 1)], 1)
    with pytest.raises(UnavailableError, match=r"came with 12\.8"):
        find_batch_copy(SimpleNamespace())


@pytest.mark.slow
def test_a_dry_run_loads_every_bit_by_every_way_that_needs_no_cuda(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, place = tmp_path / "deep" / "report.json", tmp_path / "models"
    place.mkdir()
    words = ["--dry-run", "--scale", "0.0005", "--rounds", "1", "--rank", "4", "--directory", str(place)]
    assert main([*words, "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report == json.loads(capsys.readouterr().out)
    assert [row["cell"] for row in report["cells"]] == [cell.name for cell in CELLS]
    ways = {row["cell"]: row for row in report["cells"]}
    assert {name for name, row in ways.items() if row["status"] == "skipped"} == {"6", "7"}
    assert all(row["bit_exact"] and row["speedup"] > 0 for row in ways.values() if row["status"] == "ok")
    assert report["dry_run"]
    assert {"load_slowdown", "gemm_slowdown"} <= ways["10"].keys()
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--rounds", "3"], "a median of 3 rounds says little"),
        (["--scale", "0.001"], "no CUDA device: nothing was measured"),
        (["--dry-run", "--rounds", "1", "--directory", "/no/such/place"], "/no/such/place is no directory"),
    ],
)
def test_where_nothing_can_be_measured_it_says_so_and_gives_2(
    words: list[str], why: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([*words, "--out", str(tmp_path / "report.json")]) == 2
    told = capsys.readouterr()
    assert why in told.err
    assert not told.out
    assert not (tmp_path / "report.json").exists()


def test_a_model_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Cpu, "free_bytes", lambda place: 10**9)
    assert main(["--dry-run", "--rounds", "1", "--directory", str(tmp_path)]) == 2
    assert "this scale needs 37.6 GB of free device memory, there are 1.0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scale", ["0", "1.5", "-1"])
def test_a_scale_out_of_range_is_refused(scale: str) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--scale", scale])
