#!/usr/bin/env bash
# What only a GPU can tell, in under ten minutes: tests, loading, NCCL, sleep, and engines where vLLM is installed.
#   tools/gpu_check.sh [--out FILE] [--budget SECONDS] [--dry-run]
# Wants torch, triton, numpy and safetensors; pytest and symmoe's own packages where its tests and engines are to run.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=python3
exec "$python" -m benchmarks.gpu_check.main "$@"
