"""Bring a wheel that is too large for one piece to a machine: leave out what it does not need, split, and join there.

    python tools/wheel_parts.py split vllm-0.29.0-….whl parts --part-mib 60 --drop '*sm_100*' --drop '*/flash_attn_3/*'
    python tools/wheel_parts.py join parts      # prints the wheel's path; install it with pip or uv

Only the standard library is wanted on either side. What is dropped is dropped from the wheel's RECORD too, so that
installers accept the rest. Files are dropped whole: CUDA's `nvprune` cuts architectures out of one library.
"""

from __future__ import annotations

import argparse
import csv
import fnmatch
import hashlib
import io
import json
import lzma
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

MANIFEST = "parts.json"
_PIECE = 1 << 20


class PartsError(Exception):
    """What is wrong with a wheel or its parts, in words for the user."""


def lightened(wheel: Path, drop: Sequence[str], out: Path) -> list[str]:
    """Write `wheel` to `out` without the files that match a pattern of `drop`; the names of those left out.

    Raises `PartsError` for what is no wheel, and where a pattern would drop the wheel's own description.
    """
    try:
        with zipfile.ZipFile(wheel) as old:
            names = old.namelist()
            record = next((name for name in names if name.endswith(".dist-info/RECORD")), None)
            if record is None:
                raise PartsError(f"{wheel}: has no RECORD: it is no wheel")
            dropped = {name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in drop)}
            if described := sorted(name for name in dropped if ".dist-info/" in name):
                raise PartsError(f"a pattern drops {described[0]}, without which nothing can be installed")
            with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
                for info in old.infolist():
                    if info.filename not in dropped:
                        data = old.read(info)
                        new.writestr(
                            info, _without(data, dropped) if info.filename == record else data, zipfile.ZIP_STORED
                        )
    except (zipfile.BadZipFile, OSError) as error:
        raise PartsError(f"{wheel}: cannot be read as a wheel ({error})") from error
    return sorted(dropped)


def split(wheel: Path, folder: Path, part_bytes: int, drop: Sequence[str] = ()) -> list[Path]:
    """Write a wheel as compressed parts of at most `part_bytes` and their manifest into an empty folder; the parts."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise PartsError(f"{folder}: is not empty")
    light = folder / "light.whl"
    try:
        dropped = lightened(wheel, drop, light)
        whole = hashlib.sha256()
        parts: list[Path] = []
        digests = []
        for number, data in enumerate(_compressed(light, part_bytes, whole)):
            part = folder / f"part-{number:03d}"
            part.write_bytes(data)
            parts.append(part)
            digests.append(hashlib.sha256(data).hexdigest())
        manifest = {
            "wheel": wheel.name,
            "bytes": light.stat().st_size,
            "sha256": whole.hexdigest(),
            "parts": digests,
            "dropped": dropped,
        }
    finally:
        light.unlink(missing_ok=True)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return parts


def join(folder: Path) -> Path:
    """Put the wheel together beside its parts. Raises `PartsError` where one is missing or is not what was split."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PartsError(f"{folder / MANIFEST}: cannot be read ({error})") from error
    wheel = folder / Path(manifest["wheel"]).name
    partial, whole, opened = wheel.with_suffix(".partial"), hashlib.sha256(), lzma.LZMADecompressor()
    with partial.open("wb") as out:
        for number, digest in enumerate(manifest["parts"]):
            part = folder / f"part-{number:03d}"
            data = part.read_bytes() if part.is_file() else b""
            if hashlib.sha256(data).hexdigest() != digest:
                raise PartsError(f"{part}: {'is not what was split' if data else 'is missing'}; bring it again")
            plain = opened.decompress(data)
            whole.update(plain)
            out.write(plain)
    if whole.hexdigest() != manifest["sha256"]:
        raise PartsError(f"{folder}: the parts do not make the wheel that was split")
    return partial.rename(wheel)


def _compressed(path: Path, part_bytes: int, whole: hashlib._Hash) -> Iterator[bytes]:
    """The file as one xz stream in pieces of `part_bytes`; `whole` is told of every byte."""
    packer, waiting = lzma.LZMACompressor(preset=1), bytearray()
    with path.open("rb") as file:
        while data := file.read(_PIECE):
            whole.update(data)
            waiting += packer.compress(data)
            while len(waiting) >= part_bytes:
                yield bytes(waiting[:part_bytes])
                del waiting[:part_bytes]
    waiting += packer.flush()
    for begin in range(0, len(waiting), part_bytes):
        yield bytes(waiting[begin : begin + part_bytes])


def _without(record: bytes, dropped: set[str]) -> bytes:
    """A wheel's RECORD without some of its files."""
    rows = [row for row in csv.reader(io.StringIO(record.decode())) if row and row[0] not in dropped]
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def main(words: Sequence[str] | None = None) -> int:
    """The command; 2 with a line that says what is wrong."""
    parser = argparse.ArgumentParser(prog="wheel_parts", description="Split a wheel for a journey, and join it there.")
    commands = parser.add_subparsers(dest="command", required=True)
    splitting = commands.add_parser("split")
    splitting.add_argument("wheel", type=Path)
    splitting.add_argument("folder", type=Path)
    splitting.add_argument("--part-mib", type=float, default=60.0)
    splitting.add_argument("--drop", action="append", default=[], help="files to leave out, by pattern")
    commands.add_parser("join").add_argument("folder", type=Path)
    arguments = parser.parse_args(words)
    try:
        if arguments.command == "join":
            print(join(arguments.folder))
        else:
            parts = split(arguments.wheel, arguments.folder, int(arguments.part_mib * 2**20), arguments.drop)
            print(f"{len(parts)} parts, {sum(part.stat().st_size for part in parts):,} bytes, in {arguments.folder}")
    except PartsError as error:
        print(f"wheel_parts: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
