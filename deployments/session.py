"""Ray for as long as it is needed: silent, and closed to everybody who does not know its token.

That Ray itself has died under a command is noticed here, as Ray does not tell it.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from symmoe.errors import EngineError, JobError
from symmoe.limits import RAY_FOLDER_BYTES

from .door import CALLBACK
from .private_folder import MARK, check_private, private_folder

_SECONDS = 10.0


def check_token(address: str, without_token: bool) -> None:
    """Raise `JobError` where the cluster whose GCS is at `address` answers without a token.

    Unless that is meant: then `without_token` is true. One that speaks TLS only, which in Ray asks clients for a
    certificate too, is closed as well.
    """
    if without_token:
        return
    import grpc
    from ray.core.generated.gcs_service_pb2 import InternalKVKeysRequest
    from ray.core.generated.gcs_service_pb2_grpc import InternalKVGcsServiceStub

    with grpc.insecure_channel(address) as channel:  # not Ray's own channels: these would bring the token along
        try:
            InternalKVGcsServiceStub(channel).InternalKVKeys(InternalKVKeysRequest(), timeout=_SECONDS)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED or os.environ.get("RAY_USE_TLS", "0") in ("1", "true"):
                return
            raise JobError(
                f"whether the Ray cluster at {address} asks for a token cannot be told: {error.code().name}",
                hint="try again, or allow it with --without-ray-token",
            ) from error
    raise JobError(
        f"the Ray cluster at {address} asks for no token: whoever reaches it runs code there",
        hint="start its nodes with RAY_AUTH_MODE=token and one RAY_AUTH_TOKEN, or allow it with --without-ray-token",
    )


_SIGNAL = signal.SIGUSR1
"""Wakes the main thread out of whatever it waits for; nothing else here uses it."""
_MESSAGE = "Ray on this machine has ended: its raylet was killed or failed"
_HINT = "memory may have run out (see dmesg); start again: what was answered is kept"
_PATIENCE, _AGAIN = 5.0, 0.2
"""Seconds in which the main thread should have ended, as Ray may wait half a minute for a raylet that is gone; after
how many it is woken again."""


class RayletWatch:
    """Raises `EngineError` in the main thread when the raylet that this process has started ends unasked.

    Without it a service would stand there with nothing behind it. Where Ray holds the main thread, the process ends
    after five seconds more, with the same words. Begun in another thread it watches nothing: only the main one can be
    woken.
    """

    def __init__(self) -> None:
        self._wanted, self._over = threading.Event(), threading.Event()
        self._before: Any = None
        self._woke, self._handler = False, threading.Lock()

    def begin(self) -> None:
        """Watch the raylet, which runs by now."""
        raylet = _raylet()
        if raylet is None or threading.current_thread() is not threading.main_thread():
            return
        self._before = signal.signal(_SIGNAL, self._woken)
        threading.Thread(target=self._watch, args=(raylet,), name="raylet", daemon=True).start()

    def expect_end(self) -> None:
        """From now on the raylet may end."""
        self._wanted.set()

    def end(self) -> None:
        """Everything is over, and nobody waits any more."""
        self._woke = True  # from here on nothing is raised
        with self._handler:
            self._over.set()
            if self._before is not None:
                signal.signal(_SIGNAL, self._before)

    def _woken(self, number: int, frame: object) -> None:
        if not self._woke:
            self._woke = True
            raise EngineError(_MESSAGE, hint=_HINT)

    def _watch(self, raylet: Any) -> None:
        raylet.wait()
        if self._wanted.is_set():
            return
        ends = time.monotonic() + _PATIENCE
        while time.monotonic() < ends:
            with self._handler:
                if self._over.is_set():
                    return
                # more than once: a signal that comes just before the main thread begins to wait does not end that
                signal.pthread_kill(threading.main_thread().ident or 0, _SIGNAL)
            self._over.wait(_AGAIN)
        os.write(2, f"error: {_MESSAGE}\n hint: {_HINT}\n".encode())
        os._exit(EngineError.exit_code)


def _raylet() -> Any:
    import psutil

    children = psutil.Process(os.getpid()).children()
    return next((process for process in children if process.name() == "raylet"), None)


NAMESPACE = "symmoe"
_OBJECT_STORE_BYTES = 96 << 20
"""Only questions and answers travel, most of them too small for the store at all; Ray wants 75 MiB at least."""
_SETUP_HOOK = "symmoe.deployments.loopback.listen_on_loopback"

_SILENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # what Ray prints to stdout of its own accord, such as a worker's death
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # the setting that a warning at each start recommends
}
_OURS = {
    "RAY_worker_niceness": "0",  # engines make room for the ingress by themselves
    "GLOO_SOCKET_IFNAME": "lo",  # engines and collectives listen where the machine's own name points, else
    "VLLM_HOST_IP": "127.0.0.1",
    **CALLBACK,
}
_CLOSED = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what its name hides: without it every port is open to the network
    "RAY_AUTH_MODE": "token",  # loopback is open to every user of this machine, and Ray runs what it is sent
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
"""Not for the user to choose: a token out of the environment is a cluster's, which others know."""


@contextmanager
def ray_session(
    workers: int, address: str | None = None, beside: int = 0, without_token: bool = False
) -> Iterator[None]:
    """Connect to the cluster at `address`, else start Ray on this machine with room for so many workers.

    `beside` are CPUs that Ray is told of beyond those that there are: for processes that share these with the workers.
    A cluster that asks for no token is refused unless `without_token` says that this is meant.

    A Ray that this process has started before is used as it is and left running. Our own listens on loopback only, asks
    for a token that this process alone knows, keeps its files where no other user can look, and leaves neither
    processes nor files. Raises `JobError`.
    """
    if address is not None and address.startswith("ray://"):
        raise JobError(f"{address} is a Ray Client server, which cannot stream", hint="name the head as HOST:PORT")
    if address == "local":
        address = None
    ray = _import_ray(private=address is None)
    if ray.is_initialized():
        yield
        return
    with _own(ray, workers, beside) if address is None else _joined(ray, address, without_token):
        yield


@contextmanager
def _own(ray: Any, workers: int, beside: int) -> Iterator[None]:
    """Ray on this machine."""
    watch = RayletWatch()
    with private_folder(RAY_FOLDER_BYTES) as folder, ExitStack() as stack:
        _demand_closed()
        stack.callback(watch.end)
        stack.callback(ray.shutdown)
        with _environment(MARK, str(folder)):  # only what Ray starts: not commands that this process starts later
            _init(ray, None, _here(workers, beside, folder))
        check_private(folder)
        _check_loopback(ray.util.get_node_ip_address())
        stack.callback(watch.expect_end)
        watch.begin()
        yield


@contextmanager
def _joined(ray: Any, address: str, without_token: bool) -> Iterator[None]:
    """The cluster at an address."""
    try:
        _init(ray, address, {"address": address})
        check_token(ray.get_runtime_context().gcs_address, without_token)
        yield
    finally:
        ray.shutdown()


def _init(ray: Any, address: str | None, where: dict[str, Any]) -> None:
    with _as_job_error(address):
        ray.init(**where, namespace=NAMESPACE, log_to_driver=False, logging_level=logging.CRITICAL)


@contextmanager
def _as_job_error(address: str | None) -> Iterator[None]:
    from ray.exceptions import RayError

    try:
        yield
    except (OSError, RuntimeError, ValueError, RayError) as error:
        what = f"no Ray cluster answers at {address}" if address else "Ray did not start"
        hint = "it may ask for a token: set RAY_AUTH_MODE=token, RAY_AUTH_TOKEN" if address else "or use one worker"
        raise JobError(f"{what}: {str(error).strip().splitlines()[0]}", hint=hint) from error


def _here(workers: int, beside: int, folder: Path) -> dict[str, Any]:
    return {
        "address": "local",
        "include_dashboard": False,
        "num_cpus": max(os.cpu_count() or 1, workers) + beside,
        "object_store_memory": _OBJECT_STORE_BYTES,
        "runtime_env": {"worker_process_setup_hook": _SETUP_HOOK},
        "_node_ip_address": "127.0.0.1",
        "_temp_dir": str(folder / "r"),  # Ray lets everybody write to the folder that it is given
    }


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    os.environ[name] = value
    try:
        yield
    finally:
        os.environ.pop(name, None)


def _import_ray(private: bool) -> Any:
    """Ray reads its environment when it is imported; the user's own settings win, but for what keeps others out."""
    for name, value in {**_SILENT, **(_OURS if private else {})}.items():
        os.environ.setdefault(name, value)
    if private:
        _check_mode(os.environ.get("RAY_AUTH_MODE"))
        os.environ.update(_CLOSED)
        os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
    try:
        import ray
    except ModuleNotFoundError as error:
        raise JobError("more than one worker needs Ray", hint="install it: pip install 'symmoe[serve]'") from error
    return ray


def _check_loopback(address: str) -> None:
    if not ip_address(address).is_loopback:
        raise JobError(
            f"Ray listens on {address}: whoever reaches that address reaches its ports",
            hint="start symmoe in a process of its own",
        )


def _check_mode(inherited: str | None) -> None:
    if inherited is not None and inherited.lower() != "token":
        raise JobError(
            f"RAY_AUTH_MODE is {inherited!r}: Ray would run code for everybody who reaches one of its ports",
            hint="unset RAY_AUTH_MODE; Ray on this machine gets a token of its own",
        )


def _demand_closed() -> None:
    """Have Ray read anew what keeps others out: who imported it earlier had it read before this was set."""
    import_module("ray._private.ray_constants").ENABLE_RAY_CLUSTER = False  # type: ignore[attr-defined]
    core: Any = import_module("ray._raylet")
    core.Config.initialize("")
    core.AuthenticationTokenLoader.instance().reset_cache()
    if core.get_authentication_mode() != core.AuthenticationMode.TOKEN:
        raise JobError("Ray does not ask for a token", hint="start symmoe in a process of its own")
