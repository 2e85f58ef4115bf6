"""Ray for as long as it is needed: silent, and where it is our own, closed to everybody else."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from tempfile import TemporaryDirectory
from typing import Any

from symmoe.errors import JobError

from .door import CALLBACK

NAMESPACE = "symmoe"
_OBJECT_STORE_BYTES = 96 << 20
"""Only questions and answers travel, most of them too small for the store at all; Ray wants 75 MiB at least."""

_SILENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what Ray prints to stdout of its own accord, such as a worker's death
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the setting that a warning at each start recommends
}
_PRIVATE = {
    "RAY_worker_niceness": "0",  # engines make room for the ingress by themselves
    **CALLBACK,
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what its name hides: without it every port is open to the network
    "RAY_AUTH_TOKEN": secrets.token_hex(32),  # loopback is open to every user of this machine; Ray asks for it then
}


@contextmanager
def ray_session(workers: int, address: str | None = None, beside: int = 0) -> Iterator[None]:
    """Connect to the cluster at `address`, else start Ray on this machine with room for so many workers.

    `beside` are CPUs that Ray is told of beyond those that there are: for processes that share these with the workers.

    A Ray that this process has started before is used as it is and left running. Our own listens on loopback only, asks
    for a token that this process alone knows, and leaves neither processes nor files. Raises `JobError`.
    """
    if address is not None and address.startswith("ray://"):
        raise JobError(f"{address} is a Ray Client server, which cannot stream", hint="name the head as HOST:PORT")
    ray = _import_ray(private=address is None)
    if ray.is_initialized():
        yield
        return
    with ExitStack() as stack:
        where = {"address": address} if address else _here(workers, beside, stack.enter_context(_folder()))
        stack.callback(ray.shutdown)
        with _as_job_error(address):
            ray.init(**where, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.CRITICAL)
        yield


def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="symmoe-", ignore_cleanup_errors=True)  # a worker may write its last words


@contextmanager
def _as_job_error(address: str | None) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        what = f"no Ray cluster answers at {address}" if address else "Ray did not start"
        raise JobError(f"{what}: {str(error).strip().splitlines()[0]}", hint="or use one worker") from error


def _here(workers: int, beside: int, folder: str) -> dict[str, Any]:
    return {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": max(os.cpu_count() or 1, workers) + beside,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "_node_ip_address": "127.0.0.1",
        "_temp_dir": folder,
    }


def _import_ray(private: bool) -> Any:
    """Ray reads its environment when it is imported; the user's own settings win."""
    for name, value in {**_SILENT, **(_PRIVATE if private else {})}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ModuleNotFoundError as error:
        raise JobError("more than one worker needs Ray", hint="install it: pip install 'symmoe[serve]'") from error
    return ray
