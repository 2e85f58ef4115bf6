"""An application for a Serve config whose engines hold what their prompts tell them to; see `streaming_trouble`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from symmoe.deployments.app import service_app
from symmoe.deployments.settings import Settings

from symmoe.config import read_pool
from tests.deployments.streaming_trouble import troubled_streams


def held_app(args: Mapping[str, Any]) -> Any:
    """`pool` is a pool file; a batch whose ingress is lost is taken up after two seconds."""
    settings = Settings(cpus=1, batch_lease=2.0, follow=str(args["pool"]))
    return service_app(read_pool(str(args["pool"])), settings, build=troubled_streams)
