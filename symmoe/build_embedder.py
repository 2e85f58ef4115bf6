"""Builds embedders from what a pool file names."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from symmoe.config import cache_dir
from symmoe.loading.sources import local_directory, packaged_path, sampled_sha256
from symmoe.routing.embedding import SentenceEmbedder


def sentence_embedder(locate: Callable[[], Path]) -> SentenceEmbedder:
    """The embedder of the sentence-transformers model whose directory `locate` returns."""
    return SentenceEmbedder(locate, _kept)


def embedder_directory(source: str, root: Path) -> Path:
    """The directory of the sentence-transformers model that a pool file in `root` names, fetched if need be."""
    if source.startswith("package:"):
        return packaged_path(source)
    return local_directory(source, root, cache_dir())


def model_digest(directory: Path) -> str:
    """Tells a model by its files of settings and weights, of which samples are read."""
    files = sorted((*directory.rglob("*.json"), *directory.rglob("*.safetensors")))
    names = [str(file.relative_to(directory)) for file in files]
    return hashlib.sha256("".join([*names, *map(sampled_sha256, files)]).encode()).hexdigest()[:16]


def _kept(directory: Path) -> Path:
    return cache_dir() / "embedders" / f"openvino-{version('openvino')}-{model_digest(directory)}"
