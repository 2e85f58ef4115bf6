"""Sentence models compiled by OpenVINO for processors that multiply tiles of 16-bit numbers (Intel AMX)."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain, islice
from pathlib import Path
from queue import SimpleQueue
from tempfile import gettempdir, mkdtemp
from typing import Any

import numpy as np
from numpy.typing import NDArray

Part = tuple[Sequence[int], Mapping[str, Any]]
"""Places of texts, and what the tokenizer makes of them: a row of tokens for each in every feature."""
TOKENS = 2048
"""At most so many tokens are multiplied at once: with twice as many 500 exam questions took a tenth longer."""
STREAMS = 16
"""At most so many parts are computed at once; with more cores several share one."""
KNOWN = {"albert", "bert", "distilbert", "electra", "mpnet", "roberta", "xlm-roberta"}
"""The architectures that OpenVINO is given. Others it may refuse (decoders), get wrong or die of (ModernBERT)."""
_LOG = logging.getLogger(__name__)
_NAME = "model.xml"
_MASK = "attention_mask"
_FEWEST = 256
"""Fewer tokens are not shared out among cores."""
_TRACED = ["Is it so?", "What is asked here is longer."]
_COMPARED = ["Is it so?", "What is asked here is as long as a model's window, or nearly. " * 40]
_COSINE = 0.999
"""Of a text's rows by the compiled model and by torch; with less the compiled one is not used."""


class Tiles:
    """A compiled model: each core embeds a part of the texts by itself.

    So a core that is wanted elsewhere for a moment keeps no other waiting, as it does where all compute each layer
    together: 500 exam questions took three quarters of the time on two cores.
    """

    def __init__(self, network: Any) -> None:
        import torch

        threads = torch.get_num_threads()  # what OMP_NUM_THREADS or the machine allows
        self._streams = min(threads, STREAMS)
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": self._streams,
            "ENABLE_CPU_PINNING": False,  # an engine may be computing on the same cores
        }
        self._compiled = _openvino().Core().compile_model(network, "CPU", settings)
        self._inputs = [each.get_any_name() for each in network.inputs]
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(self._streams):
            self._idle.put(self._compiled.create_infer_request())

    def room(self, tokens: int) -> int:
        """How many tokens a part has at most where texts of so many tokens are to be embedded."""
        return max(_FEWEST, min(TOKENS, -(-tokens // self._streams)))

    def rows(self, parts: Iterable[Part]) -> list[tuple[Sequence[int], NDArray[np.float32]]]:
        """The unit rows of each part."""
        parts = iter(parts)
        first = list(islice(parts, 2))
        if len(first) < 2:  # as of a service's single question: a thread would only cost time
            return [self._rows(*part) for part in first]
        made: list[tuple[Sequence[int], NDArray[np.float32]]] = []
        asked: deque[Future[tuple[Sequence[int], NDArray[np.float32]]]] = deque()
        # OpenVINO's own queue calls back from threads that wait for Python's lock, in which who lets go of it waits
        with ThreadPoolExecutor(self._streams) as threads:
            for part in chain(first, parts):
                asked.append(threads.submit(self._rows, *part))
                if len(asked) > 2 * self._streams:  # others are only read when they are wanted
                    made.append(asked.popleft().result())
            return made + [each.result() for each in asked]

    def _rows(self, places: Sequence[int], features: Mapping[str, Any]) -> tuple[Sequence[int], NDArray[np.float32]]:
        inputs = {name: features[name].numpy() for name in self._inputs}
        request = self._idle.get()
        try:
            request.infer(inputs)
            rows = np.array(request.get_output_tensor().data, dtype=np.float32)
        finally:
            self._idle.put(request)
        rows[~inputs[_MASK].any(axis=1)] = 0.0  # as torch has it: a text without a token has no direction
        return places, rows


def on_tiles(model: Any, folder: Callable[[], Path]) -> Tiles | None:
    """A sentence-transformers model in 16 bits, converted once and kept in a folder; None if torch is to run it.

    That is where the processor has no tiles, and for a model that OpenVINO cannot convert or of which it makes another.
    A model that is converted gives up the weights that torch holds.
    """
    import torch

    if model.device.type != "cpu" or not torch.cpu.get_capabilities().get("amx_bf16", False):
        return None
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    if getattr(config, "model_type", None) not in KNOWN:
        return None
    compared = model.preprocess(_COMPARED)
    try:
        kept = folder()
        tiles = _agreeing(kept, model, compared) or _made(model, kept, compared)
    except Exception as error:  # whatever OpenVINO, a trace or the disk says
        _LOG.warning("texts are embedded in 32 bits, because OpenVINO cannot run the embedder: %.300s", error)
        return None
    if tiles is None:
        _LOG.warning("texts are embedded in 32 bits, because OpenVINO makes another model of the embedder")
        return None
    model.to("meta")
    return tiles


def unit_rows(model: Any, features: Mapping[str, Any]) -> Any:
    """The unit rows of a few texts as torch computes them, without what `encode` does besides, a tenth of its time."""
    import torch

    return torch.nn.functional.normalize(model(dict(features))["sentence_embedding"].float(), dim=1)


def _agreeing(place: Path, model: Any, compared: Mapping[str, Any]) -> Tiles | None:
    """The model that a folder holds, if it gives the rows that torch does: of padded texts, too, and of long ones."""
    import torch

    try:
        tiles = Tiles(_openvino().Core().read_model(place / _NAME))
    except RuntimeError:  # none yet, or a damaged one
        return None
    with torch.inference_mode():
        wanted = unit_rows(model, compared).numpy()
    ((_, rows),) = tiles.rows([(range(len(wanted)), compared)])
    return tiles if (rows * wanted).sum(axis=1).min() >= _COSINE else None


def _made(model: Any, kept: Path, compared: Mapping[str, Any]) -> Tiles | None:
    """Convert a model and keep it, if it gives the rows that torch does."""
    network = _converted(model)
    try:
        place = _saved(network, kept.parent)
    except (OSError, RuntimeError):  # a cache that is full or cannot be written: for this process alone
        place = _saved(network, Path(gettempdir()))
    try:
        tiles = _agreeing(place, model, compared)
        if tiles is not None and place.parent == kept.parent:
            shutil.rmtree(kept, ignore_errors=True)
            with suppress(OSError):  # another process was quicker
                os.replace(place, kept)
        return tiles
    finally:
        shutil.rmtree(place, ignore_errors=True)  # what was read of it stays in memory


def _converted(model: Any) -> Any:
    """A model as OpenVINO has it, from features to unit rows."""
    import torch

    examples = {name: value for name, value in model.preprocess(_TRACED).items() if hasattr(value, "shape")}

    class UnitRows(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *values: Any) -> Any:
            return unit_rows(self.model, dict(zip(examples, values, strict=True)))

    with _silence():
        network = _openvino().convert_model(UnitRows().eval(), example_input=tuple(examples.values()))
    for port, name in zip(network.inputs, examples, strict=True):
        port.get_tensor().set_names({name})
    return network


def _saved(network: Any, beside: Path) -> Path:
    """A new folder in `beside` with the converted model."""
    beside.mkdir(parents=True, exist_ok=True)
    place = Path(mkdtemp(".partial", "openvino-", beside))
    try:
        _openvino().save_model(network, place / _NAME)
    except RuntimeError:
        shutil.rmtree(place, ignore_errors=True)
        raise
    return place


@contextmanager
def _silence() -> Iterator[None]:
    """Of a trace, which takes one way through a model and says so."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before)


def _openvino() -> Any:
    """OpenVINO, without the package through which it would tell its makers of each import and conversion."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it fails
    import openvino

    return openvino
