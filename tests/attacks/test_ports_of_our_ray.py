"""Somebody without the token talks to every port that a running service has open, and sends code."""

from __future__ import annotations

import json
import os
import pickle  # noqa: TID251  (the attack itself)
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import httpx
import psutil
import pytest
from ray.serve.generated.serve_pb2 import ASGIRequest
from symmoe.deployments.session import ray_session

from symmoe.bench.services import free_port
from symmoe.errors import JobError
from tests.conftest import echo_pool
from tests.deployments.conftest import gone
from tests.stores import own_state

ROOT = Path(__file__).parents[2]
CALLS = (
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.InternalKVGcsService/InternalKVPut",
    "/ray.rpc.JobInfoGcsService/GetAllJobInfo",
    "/ray.rpc.ActorInfoGcsService/GetAllActorInfo",
    "/ray.rpc.ActorInfoGcsService/RegisterActor",
    "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.NodeManagerService/RequestWorkerLease",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.ObjectManagerService/Push",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ReporterService/GetTraceback",
    "/ray.rpc.RayletDriverService/Init",
    "/ray.rpc.RayletDataStreamer/Datapath",
    "/ray.serve.ASGIService/HandleRequest",
    "/ray.serve.ASGIService/HandleRequestStreaming",
    "/ray.serve.ASGIService/HandleRequestWithRejection",
    "/ray.serve.ASGIService/HandleRequestWithRejectionStreaming",
)
"""Those of the GCS, raylets, object managers, workers, agents, Ray Client and replicas that lead to code being run."""
GUARDED = {"ray.rpc.InternalKVGcsService", "ray.rpc.NodeManagerService", "ray.rpc.ObjectManagerService"}
GUARDED |= {"ray.rpc.CoreWorkerService", "ray.serve.ASGIService"}
"""The services that must have been found: each says that the token is missing."""
PATHS = ("/api/jobs/", "/api/job_agent/jobs/", "/get_or_create_runtime_env", "/api/serve/applications/")


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self._words = (f"touch {file}",)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, self._words


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[psutil.Process]:
    """A service as `symmoe serve` starts it, with engines that echo."""
    folder = tmp_path_factory.mktemp("ports")
    words = ["serve", "--pool", str(echo_pool(folder)), "--port", str(free_port()), "--json"]
    command = [sys.executable, "-m", "tests.deployments.streaming_trouble", *words]
    with own_state(folder, cache=False):
        told = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        with psutil.Popen(command, cwd=ROOT, env=told, stdout=subprocess.PIPE, start_new_session=True) as process:
            assert b"{" in process.stdout.readline()
            started = process.children(recursive=True)
            yield process
            process.terminate()
            process.communicate(timeout=90)
    assert gone(started)


def listening(service: psutil.Process) -> set[tuple[str, int]]:
    tree = [service, *service.children(recursive=True)]
    open_ones = [connection for process in tree for connection in process.net_connections("tcp")]
    return {(each.laddr.ip, each.laddr.port) for each in open_ones if each.status == psutil.CONN_LISTEN}


def own_addresses() -> list[str]:
    found = [each.address for of in psutil.net_if_addrs().values() for each in of if each.family.name == "AF_INET"]
    return [address for address in found if not address.startswith("127.")]


def grpc_code(target: str, call: str, payload: bytes) -> grpc.StatusCode:
    with grpc.insecure_channel(target) as channel:
        try:
            channel.unary_unary(call)(payload, timeout=5)
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
    return grpc.StatusCode.OK


@pytest.mark.slow
def test_nothing_listens_to_the_network(service: psutil.Process) -> None:
    assert {ip.removeprefix("::ffff:") for ip, _ in listening(service)} == {"127.0.0.1"}


@pytest.mark.slow
def test_no_call_without_the_token_is_taken_on_any_port(service: psutil.Process, tmp_path: Path) -> None:
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    assert pickle.loads(bomb) == 0  # noqa: S301
    (tmp_path / "ran").unlink()
    field = ASGIRequest(pickled_request_metadata=bomb, request_args=bomb).SerializeToString()  # replicas unpickle it
    taken: list[tuple[str, int, str, grpc.StatusCode]] = []
    guarded: set[str] = set()
    for _, port in listening(service):
        for address in ("127.0.0.1", *own_addresses()):
            if (
                grpc_code(f"{address}:{port}", CALLS[0], b"") is grpc.StatusCode.UNAVAILABLE
            ):  # no gRPC there, or nothing at all
                continue
            payloads = {call: field if ".ASGIService/" in call else b"" for call in CALLS}
            codes = {call: grpc_code(f"{address}:{port}", call, sent) for call, sent in payloads.items()}
            answered = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED)
            taken += [(address, port, call, code) for call, code in codes.items() if code not in answered]
            guarded |= {call for call, code in codes.items() if code is grpc.StatusCode.UNAUTHENTICATED}
    assert taken == []
    assert {call.split("/")[1] for call in guarded} >= GUARDED
    assert not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_no_path_that_runs_something_answers_without_the_token(service: psutil.Process) -> None:
    for _, port in listening(service):
        for path in PATHS:
            try:
                status = httpx.post(
                    f"http://127.0.0.1:{port}{path}", json={"entrypoint": "true"}, timeout=5
                ).status_code
            except httpx.HTTPError:  # no HTTP there
                continue
            metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text.startswith("# HELP")
            assert status in (401, 403, 404, 405) or metrics, (port, path, status)


@pytest.mark.slow
def test_a_driver_without_the_token_runs_nothing(service: psutil.Process, tmp_path: Path) -> None:
    (gcs,) = [each for each in service.children(recursive=True) if each.name() == "gcs_server"]
    code = f"""
import sys, ray
ray.init(address=sys.argv[1])
ray.get(ray.remote(lambda: open({str(tmp_path / "ran")!r}, "w").close()).remote())
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    for each in gcs.net_connections("tcp"):
        if each.status != psutil.CONN_LISTEN:
            continue
        for address in ("127.0.0.1", *own_addresses()):
            for told in ({"RAY_AUTH_MODE": "disabled"}, {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}):
                words = [sys.executable, "-c", code, f"{address}:{each.laddr.port}"]
                try:
                    done = subprocess.run(words, env={**kept, **told}, capture_output=True, timeout=20)
                except subprocess.TimeoutExpired:
                    continue
                assert done.returncode != 0
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("mode", ["disabled", "DISABLED", "", "k8s"])
def test_an_inherited_mode_without_a_token_is_refused(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """With it code ran without a key by the network address."""
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with pytest.raises(JobError, match="Ray would run code for everybody") as raised, ray_session(1):
        pass
    assert "unset RAY_AUTH_MODE" in str(raised.value.hint)


@pytest.mark.slow
def test_an_inherited_token_is_not_ours_and_ports_stay_closed() -> None:
    """A cluster's token is known to everybody who uses the cluster."""
    code = """
import json, os, sys
from symmoe.deployments.session import ray_session
with ray_session(1):
    import psutil
    tree = psutil.Process().children(recursive=True)
    tokens = {each.environ().get("RAY_AUTH_TOKEN") for each in tree}
    ips = {c.laddr.ip for each in tree for c in each.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    print(json.dumps([sorted(filter(None, tokens)), sorted(ips)]))  # a title takes the place of an environment
"""
    inherited = {"RAY_AUTH_TOKEN": "f" * 64, "RAY_AUTH_TOKEN_PATH": "/dev/null", "RAY_AUTH_MODE": "token"}
    told = {**os.environ, **inherited, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=told, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    (token,), ips = json.loads(done.stdout)
    assert len(token) == 64
    assert token != "f" * 64
    assert {ip.removeprefix("::ffff:") for ip in ips} == {"127.0.0.1"}
