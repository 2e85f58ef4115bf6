"""Requests drawn from the service's own OpenAPI document, good ones and bad ones, by schemathesis."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.core.control import SkipTest

from tests.deployments.api.conftest import Running

MODELS = ("symmoe/auto", "symmoe/fast", "symmoe/best", "adder", "speaker", "sorter")
RECORDS = [None, {"overall": [9, 1], "skills": {"sums": [9, 0]}}]
QUIET = tuple(HealthCheck)
Look = Callable[[Any, Any], None]


def document(served: Running) -> dict[str, Any]:
    """The service's own; half the time a model is one that there is, and an expert one that may join."""
    found: dict[str, Any] = served.get("/openapi.json").json()
    for path in ("/v1/chat/completions", "/v1/route"):
        body = found["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        body["properties"]["model"] = {"anyOf": [{"enum": list(MODELS)}, {"type": "string", "maxLength": 200}]}
    joining = found["paths"]["/v1/admin/experts"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    expert = joining["properties"]["expert"]["properties"]
    expert |= {"model": {"enum": ["org/base"]}, "adapter": {"enum": ["./poet"]}}
    joining["properties"]["record"] = {"anyOf": [{"enum": RECORDS}, {"type": "object"}]}
    return found


def fuzz(served: Running, each: int, headers: dict[str, str], look: Look) -> Counter[int]:
    """Send so many requests to every operation, four times as many where there is a body, half of all on purpose wrong.

    How many had which status.
    """
    statuses: Counter[int] = Counter()
    for result in schemathesis.openapi.from_dict(document(served)).get_all_operations():
        operation = result.ok()
        count = 4 * each if operation.body else each
        for mode in schemathesis.GenerationMode:
            _many(operation, mode, (count + 1) // 2, served, headers, look, statuses)
    return statuses


def _many(
    operation: Any,
    mode: Any,
    count: int,
    served: Running,
    headers: dict[str, str],
    look: Look,
    statuses: Counter[int],
) -> None:
    drawn = operation.as_strategy(generation_mode=mode)

    @settings(max_examples=count, deadline=None, suppress_health_check=QUIET, phases=(Phase.generate,))
    @given(case=drawn)
    def one(case: Any) -> None:
        response = case.call(base_url=served.url, headers=headers, timeout=30)
        statuses[response.status_code] += 1
        look(case, response)

    with suppress(SkipTest, Unsatisfiable):  # what takes no parameters cannot be asked for wrongly
        one()
