#!/usr/bin/env bash
# Makes or refreshes .venv from the lock; does nothing when lock and project file are unchanged.
set -euo pipefail
cd "$(dirname "$0")/.."
stamp=.venv/.symmoe-setup
python=${PYTHON:-python3}
want=$(cat requirements.lock pyproject.toml tools/overrides.txt tools/setup.sh | sha256sum | cut -d' ' -f1)
[ "$(cat "$stamp" 2>/dev/null || true)" = "$want" ] && exit 0

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "error: symmoe needs Python 3.11 or newer; name one with PYTHON=…" >&2; exit 1; }
echo "setting up .venv (the first time takes a few minutes)"
[ -x .venv/bin/pip ] || "$python" -m venv .venv  # also gives pip to an environment made without it
.venv/bin/python -m pip install -qq --disable-pip-version-check uv==0.13.8

# The CPU build of torch: from a local folder where pip is told of one, else from PyTorch's own index.
links=$(.venv/bin/python -m pip config get global.find-links 2>/dev/null | tr '\n' ' ' || true)
if [ -n "$links" ]; then
  torch=(); for link in $links; do torch+=(--find-links "$link"); done
else
  torch=(--torch-backend cpu)
fi
.venv/bin/uv pip install --quiet --python .venv/bin/python "${torch[@]}" \
  --override tools/overrides.txt -r requirements.lock
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps -e .
# Where Python is told to keep nothing that it compiles, as in many images, each process would compile torch, Ray and vLLM
# again: ten seconds and more of a core. What is imported here is kept.
[ -z "${PYTHONDONTWRITEBYTECODE:-}" ] || env -u PYTHONDONTWRITEBYTECODE .venv/bin/python tools/compiled.py
echo "$want" > "$stamp"
