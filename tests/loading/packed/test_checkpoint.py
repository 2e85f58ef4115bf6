from __future__ import annotations

import hashlib
import json
import re
import struct
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from symmoe.errors import CheckpointError
from symmoe.loading.packed.checkpoint import PackedCheckpoint
from symmoe.loading.packed.layout import Layout
from symmoe.loading.packed.writing import write_pack

from .conftest import CHUNK, headed, image_of, llama, same_bits, write_model

SHARED = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pack that no test writes to."""
    folder = tmp_path_factory.mktemp("sound")
    write_pack(Layout.of(str(write_model(folder / "model", llama(1))), chunk_bytes=CHUNK), folder / "sound.pack")
    return folder / "sound.pack"


def manifest_of(image: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack_from("<Q", image, 16)
    return json.loads(image[64 : 64 + length]), image[64 + length :]


def refuses(path: Path, content: bytes, says: str = "") -> None:
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="^" + re.escape(str(path)) + f": .*{says}"):
        PackedCheckpoint.open(path)


def test_a_sound_file_gives_its_tensors_as_views(sound: Path) -> None:
    with PackedCheckpoint.open(sound) as packed:
        tensors = dict(packed.tensors())
        wanted = llama(1)
        assert tensors.keys() == wanted.keys()
        assert all(same_bits(tensors[name], wanted[name]) for name in wanted)
        addresses = [tensor.data_ptr() for tensor in tensors.values()]
        assert addresses == sorted(addresses)
        assert not any(address % 256 for address in addresses)


@SHARED
@given(at=st.integers(0), flip=st.integers(1, 255))
@example(at=0, flip=1)
@example(at=8, flip=1)
@example(at=12, flip=1)
@example(at=16, flip=128)
@example(at=23, flip=128)
@example(at=31, flip=128)
@example(at=63, flip=1)
@example(at=4095, flip=1)
def test_a_file_with_any_byte_altered_is_refused(sound: Path, tmp_path: Path, at: int, flip: int) -> None:
    content = bytearray(sound.read_bytes())
    content[at % len(content)] ^= flip
    refuses(tmp_path / "altered.pack", content)


@SHARED
@given(kept=st.integers(0))
@example(kept=0)
@example(kept=63)
@example(kept=64)
@example(kept=4096)
def test_a_file_cut_at_any_length_is_refused(sound: Path, tmp_path: Path, kept: int) -> None:
    content = sound.read_bytes()
    refuses(tmp_path / "cut.pack", content[: kept % len(content)])


@SHARED
@given(content=st.binary(max_size=300))
def test_a_file_of_anything_is_refused(tmp_path: Path, content: bytes) -> None:
    refuses(tmp_path / "any.pack", content)
    refuses(tmp_path / "any.pack", b"SYMMOEPK\x01\0\0\0\0\x01\0\0" + content)


def test_the_chunk_that_was_altered_is_named(sound: Path, tmp_path: Path) -> None:
    content = bytearray(sound.read_bytes())
    document, data = manifest_of(bytes(content))
    begin = len(content) - len(data)
    assert len(document["chunks"]) > 1
    content[begin + CHUNK + 5] ^= 1
    refuses(tmp_path / "altered.pack", content, rf"chunk 1 \(offset {CHUNK} of the data\): its sha256 differs")


def test_a_header_check_alone_does_not_read_the_data(sound: Path, tmp_path: Path) -> None:
    content = bytearray(sound.read_bytes())
    content[-1] ^= 1
    path = tmp_path / "altered.pack"
    path.write_bytes(content)
    with PackedCheckpoint.open(path, "header") as packed, pytest.raises(CheckpointError, match="sha256 differs"):
        packed.verify_chunks()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"PK\x03\x04" + bytes(200), "not a packed checkpoint"),
        (headed(b"{}", b"", version=2), "version 2 of the format"),
        (headed(b"{}", b"", alignment=128), "contradicts itself"),
        (headed(b"{}", b"", grown=1), "cut or grown"),
        (struct.pack("<8sIIQQ", b"SYMMOEPK", 1, 256, 2**63, 2**64 - 1) + bytes(64), "contradicts itself"),
        (struct.pack("<8sIIQQ", b"SYMMOEPK", 1, 256, 2**64 - 64, 0) + bytes(64), "contradicts itself"),
        (struct.pack("<8sIIQQ", b"SYMMOEPK", 1, 256, 4032, 2**64 - 4096) + bytes(64), "cut or grown"),
        (headed(b"{}", b""), "fingerprint: Field required"),
        (headed(b"[" * 4000, b""), "Invalid JSON"),
        (headed(b"\xff", b""), "Invalid JSON"),
        (headed(b"", b""), "Invalid JSON"),
    ],
)
def test_a_file_that_is_no_pack_is_refused_by_what_is_wrong(tmp_path: Path, content: bytes, says: str) -> None:
    refuses(tmp_path / "other.pack", content, says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d["tensors"][0].update(dtype="F6"), "unknown dtype 'F6'"),
        (lambda d: d["tensors"][0].update(shape=[2**40, 2**40]), "are not"),
        (lambda d: d["tensors"][0].update(shape=[0] * 17), "shape"),
        (lambda d: d["tensors"][0].update(shape=[-1]), "greater than or equal to 0"),
        (lambda d: d["tensors"][0].update(shape=[40.0, 16]), "valid integer"),
        (lambda d: d["tensors"][0].update(shape=[True]), "valid integer"),
        (lambda d: d["tensors"][0].update(shape=40), "valid array"),
        (lambda d: d["tensors"][0].update(nbytes=1281), "are not"),
        (lambda d: d["tensors"][0].update(offset=-256), "greater than or equal to 0"),
        (lambda d: d["tensors"][0].update(offset=2**63), "less than"),
        (lambda d: d["tensors"][0].update(offset=10**4000), "tensors.0.offset"),
        (lambda d: d["tensors"][1].update(offset=128), "no multiple of 256"),
        (lambda d: d["tensors"][1].update(offset=0), "inside the tensor before it"),
        (lambda d: d["tensors"][-1].update(offset=d["data_bytes"]), "not all in the"),
        (lambda d: d["tensors"][0].update(tag=1), "valid string"),
        (lambda d: d["tensors"][0].update(tag="x" * 32), "tag"),
        (lambda d: d["tensors"][0].update(more=1), "more"),
        (lambda d: d["tensors"][0].update(name=""), "name"),
        (lambda d: d["tensors"][1].update(name=d["tensors"][0]["name"]), "the same name"),
        (lambda d: d["tensors"].reverse(), "inside the tensor before it"),
        (lambda d: d.update(aliases={"head": "nothing"}), "alias"),
        (lambda d: d.update(aliases={d["tensors"][0]["name"]: d["tensors"][1]["name"]}), "alias"),
        (lambda d: d.update(data_bytes=d["data_bytes"] + 4096), "data_bytes|checksums"),
        (lambda d: d.update(data_bytes=d["data_bytes"] + 1), "no multiple of 4096"),
        (lambda d: d.update(chunk_bytes=0), "chunk_bytes"),
        (lambda d: d.update(chunk_bytes=4097), "chunk_bytes"),
        (lambda d: d["chunks"].pop(), "checksums for"),
        (lambda d: d["chunks"].clear(), "no checksums"),
        (lambda d: d["chunks"].reverse(), "sha256 differs"),
        (lambda d: d.update(fingerprint="0" * 65), "fingerprint"),
        (lambda d: d.update(model=None), "model"),
        (lambda d: d.update(adapter="0"), "adapter"),
        (lambda d: d.update(tensors={}), "tensors"),
        (lambda d: d.update(more=1), "more"),
        (lambda d: d.pop("tensors"), "tensors: Field required"),
    ],
)
def test_a_manifest_that_is_not_true_is_refused_by_what_is_wrong(
    sound: Path, tmp_path: Path, change: Change, says: str
) -> None:
    document, data = manifest_of(sound.read_bytes())
    change(document)
    refuses(tmp_path / "untrue.pack", headed(json.dumps(document).encode(), data), f"({says})")


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
)


PLAUSIBLE = st.integers(0, 80).map(lambda count: 256 * count) | st.integers(0, 40)


@SHARED
@given(data=st.data())
def test_whatever_a_vouched_for_manifest_says_no_view_leaves_the_data(
    sound: Path, tmp_path: Path, data: st.DataObject
) -> None:
    document, content = manifest_of(sound.read_bytes())
    place: Any = document
    for _ in range(data.draw(st.integers(0, 3))):
        inner = [key for key in _keys(place) if isinstance(place[key], dict | list) and place[key]]
        if inner:
            place = place[data.draw(st.sampled_from(inner))]
    place[data.draw(st.sampled_from(_keys(place)))] = data.draw(PLAUSIBLE | ANYTHING)
    path = tmp_path / "untrue.pack"
    path.write_bytes(headed(json.dumps(document).encode(), content))
    with suppress(CheckpointError), PackedCheckpoint.open(path) as packed:
        for _, tensor in packed.tensors():
            assert tensor.untyped_storage().nbytes() == len(content)
            assert tensor.contiguous().view(-1).view(torch.uint8).numel() <= len(content)


def _keys(place: Any) -> list[Any]:
    return list(place) if isinstance(place, dict) else list(range(len(place)))


@pytest.mark.parametrize("path", ["none.pack", "."])
def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path: Path, path: str) -> None:
    with pytest.raises(CheckpointError, match=re.escape(str(tmp_path / path)) + ": cannot be read"):
        PackedCheckpoint.open(tmp_path / path)


def test_writing_to_a_view_leaves_the_file_as_it_is(sound: Path) -> None:
    before = hashlib.sha256(sound.read_bytes()).digest()
    with PackedCheckpoint.open(sound) as packed:
        packed.tensor("model.norm.weight").zero_()
        assert not packed.tensor("model.norm.weight").any()
    assert hashlib.sha256(sound.read_bytes()).digest() == before


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_views_of_an_image_in_memory_are_made_without_a_warning(sound: Path, kind: type) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        filters = list(warnings.filters)
        packed = PackedCheckpoint.from_buffer(memoryview(kind(sound.read_bytes())))
        assert same_bits(packed.tensor("model.norm.weight"), llama(1)["model.norm.weight"])
        assert warnings.filters == filters


def test_views_outlive_the_checkpoint(sound: Path) -> None:
    with PackedCheckpoint.open(sound) as packed:
        kept = packed.tensor("model.norm.weight")
    packed.close()
    assert same_bits(kept, llama(1)["model.norm.weight"])
    with pytest.raises(ValueError, match="was closed"):
        next(packed.tensors())


def test_closing_gives_the_file_back_where_no_view_is_left(sound: Path) -> None:
    with PackedCheckpoint.open(sound) as packed:
        assert sum(1 for _ in packed.tensors()) == len(llama(1))
        assert str(sound) in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert str(sound) not in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_a_refused_file_is_given_back(sound: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.pack"
    refuses(path, sound.read_bytes()[:-4096])
    assert str(path) not in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_an_image_without_checksums_cannot_be_verified(tmp_path: Path) -> None:
    image = image_of(Layout.of(str(write_model(tmp_path / "model", llama(1)))))
    with pytest.raises(CheckpointError, match="image in memory: has no checksums"):
        PackedCheckpoint.from_buffer(memoryview(image)).verify_chunks()
    refuses(tmp_path / "unsigned.pack", image, "no checksums")


def test_a_name_that_is_not_there_is_a_key_error(sound: Path) -> None:
    with PackedCheckpoint.open(sound) as packed:
        for ask in (lambda: packed.tensor("none"), lambda: packed.fused(["model.norm.weight", "none"])):
            with pytest.raises(KeyError, match="none"):
                ask()
