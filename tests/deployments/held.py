"""An application for a Serve config whose engines hold what their prompts tell them to; see `streaming_trouble`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from symmoe.deployments.app import service_app, settings_of

from symmoe.config import read_pool
from tests.deployments.streaming_trouble import troubled_streams


def held_app(args: Mapping[str, Any]) -> Any:
    """Of the arguments that `build_app` takes; a batch whose ingress is lost is taken up after two seconds."""
    settings = replace(settings_of(args), batch_lease=2.0)
    return service_app(read_pool(str(args["pool"])), settings, build=troubled_streams)
