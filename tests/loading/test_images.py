from __future__ import annotations

from pathlib import Path

import pytest
import torch

from symmoe.errors import CapacityError, CheckpointError
from symmoe.loading.images import HostImages
from symmoe.loading.lanes import ExpertWeights
from symmoe.loading.merge import merged_weights
from symmoe.loading.packed.checkpoint import PackedCheckpoint
from symmoe.loading.packed.layout import Layout
from symmoe.loading.packed.writing import packed_path, write_pack
from symmoe.types import Image

MIB = 1 << 20
NOWHERE = Path("/nowhere")


def read(image: Image) -> dict[str, torch.Tensor]:
    with Path(image.path).open("rb") as file:
        file.seek(image.offset)
        memory = bytearray(file.read(image.nbytes))
    return dict(PackedCheckpoint.from_buffer(memoryview(memory)).tensors())


def test_an_image_holds_the_merged_weights_where_another_process_can_map_them(base: Path, adapter: Path) -> None:
    images = HostImages(MIB, NOWHERE)
    with images.hold(ExpertWeights(str(base), str(adapter))) as image:
        found = read(image)
    images.close()
    wanted = dict(merged_weights(str(base), str(adapter)))
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def test_a_file_packed_from_the_same_weights_is_mapped_as_it_is(base: Path, tmp_path: Path) -> None:
    weights, packed = ExpertWeights(str(base)), packed_in(tmp_path, base)
    images = HostImages(MIB, tmp_path)
    images.expect([weights])
    with images.hold(weights) as image:
        assert (image.path, image.offset, image.nbytes) == (str(packed), 0, packed.stat().st_size)
    images.close()


def test_a_packed_file_that_was_altered_is_refused_by_name(base: Path, tmp_path: Path) -> None:
    packed = packed_in(tmp_path, base)
    with packed.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    images = HostImages(MIB, tmp_path)
    with pytest.raises(CheckpointError, match=packed.name), images.hold(ExpertWeights(str(base))):
        pass
    images.close()


def packed_in(folder: Path, base: Path) -> Path:
    layout = Layout.of(str(base))
    packed = packed_path(folder, "anyone", layout.manifest)
    write_pack(layout, packed)
    return packed


def test_bases_and_adapters_have_keys_of_their_own_and_share_a_shape(base: Path, adapter: Path) -> None:
    images = HostImages(MIB, NOWHERE)
    plain, adapted = ExpertWeights(str(base)), ExpertWeights(str(base), str(adapter))
    assert images.key(plain) == images.key(ExpertWeights(str(base)))
    assert images.key(plain) != images.key(adapted)
    assert images.shape(str(base)) == images.shape(plain.model)
    assert set(images.tags(str(base))) == set(dict(merged_weights(str(base), None)))


def test_what_was_announced_is_there_when_it_is_needed(base: Path, adapter: Path) -> None:
    images = HostImages(MIB, NOWHERE)
    weights = ExpertWeights(str(base), str(adapter))
    images.expect([weights])
    assert images.tier.prefetch(images.key(weights)).result()  # the promise that `expect` was given
    with images.hold(weights) as image:
        assert read(image)
    images.close()


def test_a_host_tier_too_small_for_an_expert_says_so_when_it_is_needed(base: Path) -> None:
    images = HostImages(4096, NOWHERE)
    weights = ExpertWeights(str(base))
    images.expect([weights])
    with pytest.raises(CapacityError), images.hold(weights):
        pass
    images.close()
