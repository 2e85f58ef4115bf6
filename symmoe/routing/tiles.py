"""Sentence models compiled by OpenVINO for processors that multiply tiles of 16-bit numbers (Intel AMX)."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

Part = tuple[Sequence[int], Mapping[str, Any]]
"""Places of texts, and what the tokenizer makes of them: a row of tokens for each in every feature."""
TOKENS = 2048
"""At most so many tokens are multiplied at once: with twice as many 500 exam questions took a tenth longer."""
STREAMS = 16
"""At most so many parts are computed at once; with more cores several share one."""
_LOG = logging.getLogger(__name__)
_NAME = "model.xml"
_MASK = "attention_mask"
_FEWEST = 256
"""Fewer tokens are not shared out among cores."""
_PROBES = ["Is it so?", "What is to be answered here is longer: it says whether padding is told from words."]
_COSINE = 0.999
"""Of a text's rows by the compiled model and by torch; with less the compiled one is not used."""


class Tiles:
    """A compiled model: each core embeds a part of the texts by itself.

    So a core that is wanted elsewhere for a moment keeps no other waiting, as it does where all compute each layer
    together: 500 exam questions took two thirds of the time on two cores.
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
        self._queue = _openvino().AsyncInferQueue(self._compiled, self._streams)

    def room(self, tokens: int) -> int:
        """How many tokens a part has at most where texts of so many tokens are to be embedded."""
        return max(_FEWEST, min(TOKENS, -(-tokens // self._streams)))

    def rows(self, parts: Iterable[Part]) -> list[tuple[Sequence[int], NDArray[np.float32]]]:
        """The unit rows of each part, in any order."""
        made: list[tuple[Sequence[int], NDArray[np.float32]]] = []

        def keep(request: Any, given: tuple[Sequence[int], NDArray[np.bool_]]) -> None:
            places, said = given
            rows = request.get_output_tensor().data.copy()
            rows[~said] = 0.0  # as torch has it: a text without a token has no direction
            made.append((places, rows))

        self._queue.set_callback(keep)
        for places, features in parts:
            inputs = {name: features[name].numpy() for name in self._inputs}
            self._queue.start_async(inputs, (places, inputs[_MASK].any(axis=1)))
        self._queue.wait_all()
        return made


def on_tiles(model: Any, folder: Callable[[], Path]) -> Tiles | None:
    """A sentence-transformers model in 16 bits, converted once and kept in a folder; None if torch is to run it.

    That is where the processor has no tiles, and for a model that OpenVINO does not know or of which it makes another.
    A model that is converted gives up the weights that torch holds.
    """
    import torch

    if model.device.type != "cpu" or not torch.cpu.get_capabilities().get("amx_bf16", False):
        return None
    probes = model.preprocess(_PROBES)
    if not in_rows(probes):
        return None
    try:
        kept = folder()
        tiles = _agreeing(kept, model, probes)
        if tiles is None:
            with TemporaryDirectory() as spare:
                tiles = _agreeing(_saved(_converted(model, probes), kept, Path(spare)), model, probes)
    except Exception as error:  # whatever OpenVINO, a trace or the disk says
        _LOG.warning("questions are embedded in 32 bits, because OpenVINO cannot have the embedder: %.300s", error)
        return None
    if tiles is None:
        _LOG.warning("questions are embedded in 32 bits, because OpenVINO makes another model of the embedder")
        return None
    model.to("meta")
    return tiles


def in_rows(features: Mapping[str, Any]) -> bool:
    """Whether every feature has a row for each text, as long as the attention mask's."""
    mask = features.get(_MASK)
    return mask is not None and all(value.shape == mask.shape for value in features.values() if hasattr(value, "shape"))


def unit_rows(model: Any, features: Mapping[str, Any]) -> Any:
    """The unit rows of a few texts as torch computes them, without what `encode` does besides, a tenth of its time."""
    import torch

    return torch.nn.functional.normalize(model(dict(features))["sentence_embedding"].float(), dim=1)


def _agreeing(kept: Path, model: Any, probes: Mapping[str, Any]) -> Tiles | None:
    """The model that is kept in a folder, if it gives the rows that torch does."""
    import torch

    try:
        tiles = Tiles(_openvino().Core().read_model(kept / _NAME))
    except RuntimeError:  # none yet, or a damaged one
        return None
    with torch.inference_mode():
        wanted = unit_rows(model, probes).numpy()
    ((_, rows),) = tiles.rows([(range(len(wanted)), probes)])
    return tiles if (rows * wanted).sum(axis=1).min() >= _COSINE else None


def _converted(model: Any, probes: Mapping[str, Any]) -> Any:
    """A model as OpenVINO has it, from features to unit rows."""
    import torch

    examples = {name: value for name, value in probes.items() if hasattr(value, "shape")}

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


def _saved(network: Any, kept: Path, spare: Path) -> Path:
    """The folder where a converted model is saved: `spare`, for this process alone, if `kept` cannot be written."""
    part = kept.with_name(f"{kept.name}.{os.getpid()}.partial")
    try:
        part.mkdir(parents=True, exist_ok=True)
        _openvino().save_model(network, part / _NAME)
    except (OSError, RuntimeError):
        _openvino().save_model(network, spare / _NAME)
        return spare
    else:
        shutil.rmtree(kept, ignore_errors=True)
        with suppress(OSError):  # another process was quicker
            os.replace(part, kept)
        return kept
    finally:
        shutil.rmtree(part, ignore_errors=True)


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
