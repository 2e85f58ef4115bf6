"""A cluster that runs code for whoever reaches it is not used, unless the operator says that it is meant to be."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from symmoe.deployments.session import check_token

from symmoe.errors import JobError
from tests.clusters import free_ports
from tests.conftest import echo_pool
from tests.deployments.test_on_cluster import cluster_of, said


@contextmanager
def gcs(code: grpc.StatusCode) -> Iterator[str]:
    """The address of a server that gives every call that status."""

    class Everything(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
            def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
                if code is not grpc.StatusCode.OK:
                    context.abort(code, "no")
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    server = grpc.server(ThreadPoolExecutor(1), handlers=[Everything()])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def test_one_that_answers_without_a_token_is_refused_unless_that_is_meant() -> None:
    with gcs(grpc.StatusCode.OK) as address:
        with pytest.raises(JobError, match="asks for no token: whoever reaches it runs code") as raised:
            check_token(address, without_token=False)
        assert "--without-ray-token" in str(raised.value.hint)
        check_token(address, without_token=True)


def test_one_that_asks_for_a_token_is_taken() -> None:
    with gcs(grpc.StatusCode.UNAUTHENTICATED) as address:
        check_token(address, without_token=False)


def test_where_it_cannot_be_told_the_cluster_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symmoe.deployments.session._SECONDS", 0.5)
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    (port,) = free_ports(1)
    with pytest.raises(JobError, match="cannot be told"):
        check_token(f"127.0.0.2:{port}", without_token=False)


@pytest.mark.slow
def test_a_real_one_without_a_token_is_refused_by_both_commands(tmp_path: Path) -> None:
    with cluster_of(tmp_path, RAY_AUTH_MODE="disabled") as (there, told):
        pool, (port,) = str(echo_pool(tmp_path)), free_ports(1)
        said(told, "key", "create", "team")
        words = ["serve", "--address", there.head, "--pool", pool, "--port", str(port)]
        assert "asks for no token" in said(told, *words, code=2)
        (tmp_path / "in.jsonl").write_text('{"id": "1", "prompt": "sums"}\n')
        batch = ["batch", "run", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "out.jsonl"), "--pool", pool]
        told = {**told, "RAY_ADDRESS": there.head}
        assert "asks for no token" in said(told, *batch, "--workers", "2", code=2)
        said(told, *batch, "--workers", "2", "--without-ray-token", "--json")
        assert there.nodes["head"].is_running()
