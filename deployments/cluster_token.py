"""Whether a Ray cluster runs code for everybody, or only for those who know its token."""

from __future__ import annotations

import os

from symmoe.errors import JobError

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
