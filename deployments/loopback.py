"""Makes replicas of a local Ray listen on loopback: Ray Serve lets them listen on the network, whatever Ray is told."""

from __future__ import annotations

from typing import Any

_EVERYWHERE = ("[::]:", "0.0.0.0:")


def listen_on_loopback() -> None:
    """Make gRPC servers that Ray Serve starts later in this process listen on 127.0.0.1 only.

    Ray calls this in each worker first; nothing uses those servers, as handles call actors.
    """
    from ray._common import tls_utils  # Serve's replicas take the function from here when they are imported

    add_port = tls_utils.add_port_to_grpc_server

    def add_local_port(server: Any, address: str) -> Any:
        for everywhere in _EVERYWHERE:
            if address.startswith(everywhere):
                address = f"127.0.0.1:{address.removeprefix(everywhere)}"
        return add_port(server, address)

    tls_utils.add_port_to_grpc_server = add_local_port
