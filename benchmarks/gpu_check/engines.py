"""Two vLLM engines of 7 to 9B shapes, random weights, on one GPU: one awake and one asleep, in turn.

Each is a process. They wake to the same tokens as before, or the check fails; what waking takes stands beside what a
new engine took, for our sleep backend (vLLM 0.29 and newer) or vLLM's own where it has no choice.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "llama-8b": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "qwen2-7b": {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 152064,
    },
}
_COMMON = {"max_position_embeddings": 4096, "torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2}
_SMALL = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 4}
_SMALL |= {"num_key_value_heads": 2, "vocab_size": 512}
_PROMPT = list(range(100, 164))
_TOKENS, _ROUNDS, _SHARE = 16, 5, 0.42


def _serve(directory: str, dry_run: bool, here: Connection) -> None:
    """One engine's process: answers `sleep`, `wake`, `ask` and `end`, each with its seconds and what came of it."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the process is the engine's own
    if dry_run:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    from symmoe.loading.sleep import BACKEND, register_backend

    chosen: dict[str, Any] = {} if dry_run else {"enable_sleep_mode": True, "gpu_memory_utilization": _SHARE}
    ours = register_backend() and not dry_run
    if ours:
        chosen["sleep_mode_backend"] = BACKEND
    from vllm import LLM, SamplingParams

    began = time.perf_counter()
    engine = LLM(
        directory,
        load_format="dummy",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=2048,
        enable_prefix_caching=False,
        seed=0,
        **chosen,
    )
    here.send((time.perf_counter() - began, ours))
    greedy = SamplingParams(temperature=0, max_tokens=_TOKENS, ignore_eos=True, detokenize=False)
    while (word := here.recv()) != "end":
        began = time.perf_counter()
        said: Any = None
        if word == "sleep" and not dry_run:
            engine.sleep(level=1)
        elif word == "wake" and not dry_run:
            engine.wake_up()
        elif word == "ask":
            said = list(engine.generate([{"prompt_token_ids": _PROMPT}], greedy)[0].outputs[0].token_ids)
        here.send((time.perf_counter() - began, said))


class Engine:
    """A process with one engine."""

    def __init__(self, name: str, folder: Path, dry_run: bool) -> None:
        directory = folder / name
        directory.mkdir()
        config = {**SHAPES[name], **_COMMON, **(_SMALL if dry_run else {})}
        (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
        context = multiprocessing.get_context("spawn")
        self._there, here = context.Pipe()
        self._process = context.Process(target=_serve, args=(str(directory), dry_run, here), daemon=False)
        self._process.start()
        here.close()  # or the end of the process would not be seen here
        self.start_s, self.ours = self._there.recv()

    def do(self, word: str) -> tuple[float, Any]:
        """Seconds that it took, and what was said."""
        self._there.send(word)
        return self._there.recv()

    def end(self) -> None:
        """End the process."""
        self._there.send("end")
        self._process.join(30)
        self._process.kill()


def measure(dry_run: bool) -> dict[str, Any]:
    """Starts, sleeps and wakes of both engines in turn, in seconds; whether every answer stayed the same."""
    with tempfile.TemporaryDirectory() as folder:
        engines: dict[str, Engine] = {}
        told: dict[str, dict[str, Any]] = {}
        for name in SHAPES:
            engine = engines[name] = Engine(name, Path(folder), dry_run)
            _, answer = engine.do("ask")
            told[name] = {"start_s": engine.start_s, "backend": "symmoe" if engine.ours else "vLLM's own"}
            told[name] |= {"answer": answer, "first_sleep_s": engine.do("sleep")[0], "wakes": [], "sleeps": []}
        same = True
        for _ in range(_ROUNDS):
            for name, engine in engines.items():
                told[name]["wakes"].append(engine.do("wake")[0])
                same &= engine.do("ask")[1] == told[name]["answer"]
                told[name]["sleeps"].append(engine.do("sleep")[0])
        for engine in engines.values():
            engine.end()
        for row in told.values():
            wakes, sleeps = sorted(row.pop("wakes")), sorted(row.pop("sleeps"))
            row |= {"wake_s": wakes[_ROUNDS // 2], "sleep_s": sleeps[_ROUNDS // 2]}
            row |= {"start_to_wake": row["start_s"] / row["wake_s"]}
            del row["answer"]
        return {"same_answers": same, "engines": told}


def main() -> int:
    """Write the report; 1 if an engine woke to other answers."""
    parser = argparse.ArgumentParser(description="Engines of 7 to 9B shapes that sleep and wake in turn.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dry-run", action="store_true", help="small shapes on a CPU, where nothing sleeps")
    arguments = parser.parse_args()
    report = measure(arguments.dry_run)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return int(not report["same_answers"])


if __name__ == "__main__":
    sys.exit(main())
