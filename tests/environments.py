"""Environments beside ours, for packages whose pins clash with it."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import TLS


def environment(wanted: Path) -> Path:
    """The Python of an environment with what a file of requirements pins; made once and kept in the cache."""
    name = hashlib.sha256(wanted.read_bytes() + sys.version.encode()).hexdigest()[:12]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "symmoe-tests"
    place = folder / f"{wanted.parent.name}-{name}"
    place.parent.mkdir(parents=True, exist_ok=True)
    uv, python = Path(sys.executable).with_name("uv"), place / "bin" / "python"
    with place.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "complete").exists():
            own = {**{name: value for name, value in os.environ.items() if name != "SSL_CERT_DIR"}, **TLS}
            subprocess.run([uv, "venv", "--clear", "--quiet", "--python", sys.executable, place], check=True)
            subprocess.run([uv, "pip", "install", "--quiet", "--python", python, "-r", wanted], check=True, env=own)
            (place / "complete").touch()
    return python
