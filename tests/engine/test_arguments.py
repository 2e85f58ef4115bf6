"""What engines are started with."""

from __future__ import annotations

from symmoe.config import read_pool
from symmoe.engines.arguments import vllm_arguments


def test_an_engine_has_what_the_pool_says_of_it_and_the_window_it_is_given() -> None:
    size = read_pool("tiny").engine
    on_cpus, on_gpus = vllm_arguments(size, 1024, gpu=False), vllm_arguments(size, 1024, gpu=True)
    assert (on_cpus["max_num_seqs"], on_cpus["max_model_len"]) == (size.max_num_seqs, 1024)
    assert on_cpus["kv_cache_memory_bytes"] == int(size.kv_cache_gib * 2**30)
    assert "gpu_memory_utilization" not in on_cpus
    assert on_gpus["gpu_memory_utilization"] == size.gpu_memory_utilization
    assert "kv_cache_memory_bytes" not in on_gpus


def test_prompts_are_prefilled_whole_on_cpus_however_long_the_window() -> None:
    size = read_pool("tiny").engine
    for window in (512, 4096, 32768):
        arguments = vllm_arguments(size, window, gpu=False)
        assert not arguments["enable_chunked_prefill"]
        assert arguments["max_num_batched_tokens"] >= window
