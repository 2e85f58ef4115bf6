"""How fast weights get onto one GPU, by each way there is. Needs torch, triton, numpy, safetensors and a CUDA GPU.

    python benchmarks/gpu_loading.py --out out/bench/gpu_loading.json

`--dry-run` runs the same code on the CPU, for its results and not for its times. What is measured stands in
`benchmarks/gpu_loading/cells.py`, how to read the report in docs/gpu.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # runs from a bare checkout; symmoe need not be installed
    from benchmarks.gpu_loading.main import main

    sys.exit(main())
