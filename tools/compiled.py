"""Import what commands and tests import, so that Python keeps what it has compiled of it."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "RAY_USAGE_STATS_ENABLED": "0"}
NAMES = """
    ray.serve ray.data sentence_transformers sklearn.linear_model sklearn.cluster scipy.optimize pyarrow.parquet openai
    pytest hypothesis peft gguf transformers.models.llama transformers.models.qwen2 transformers.models.bert
    vllm.engine.arg_utils vllm.v1.engine.llm_engine vllm.v1.engine.async_llm vllm.v1.worker.cpu_worker
    vllm.model_executor.models.llama vllm.model_executor.models.qwen2 vllm.entrypoints.openai.api_server
    vllm.lora.models vllm.platforms.cpu
"""

if __name__ == "__main__":
    ours = ("symmoe", "symmoe.cli", "symmoe.deployments")
    found = [
        each.name for root in ours for each in pkgutil.walk_packages(importlib.import_module(root).__path__, f"{root}.")
    ]
    for name in [*NAMES.split(), *(each for each in found if "__main__" not in each)]:
        with contextlib.suppress(Exception):  # what cannot be imported here is not kept, and that is all
            importlib.import_module(name)
