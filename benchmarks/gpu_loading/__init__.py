"""The parts of `benchmarks/gpu_loading.py`."""
