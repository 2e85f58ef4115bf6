"""`symmoe top` and `symmoe expert` against a service that runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import symmoe.cli.top
from symmoe.deployments.access.keys import Open
from symmoe.deployments.settings import Settings
from symmoe.deployments.watching import Samples

from tests.deployments.api.conftest import Running, running

from .conftest import Symmoe


@pytest.fixture
def served(tmp_path: Path, state: Path) -> Iterator[Running]:
    with running(tmp_path / "served", Settings(), Open(admin=True), aggregation={"trust": 1.0}) as service:
        yield service


def ask(served: Running, model: str) -> None:
    served.post(json={"model": model, "messages": [{"role": "user", "content": "sums of 1 2"}]})


def test_top_shows_experts_engines_lanes_and_requests(served: Running, symmoe_command: Symmoe) -> None:
    ask(served, "adder")
    ask(served, "symmoe/best")
    ask(served, "nobody")
    seen = symmoe_command("top", "--url", f"{served.url}/v1", "--json").json
    experts: dict[str, dict[str, Any]] = {each["name"]: each for each in seen["experts"]}
    assert list(experts) == ["adder", "speaker", "sorter", "broken"]
    assert experts["adder"]["state"] == "active"
    assert experts["adder"]["completion_tokens"] > 0
    assert experts["broken"]["failures"] == 1
    assert seen["requests"] == {"200": 2, "404": 1}
    assert seen["answers"] == {"aggregated": 1, "named": 1}
    assert sum(count for count, _ in seen["lanes"].values()) >= 2
    assert len(seen["engines"]) == 1
    assert seen["latencies"]["request"][0] > 0
    shown = symmoe_command("top", "--url", served.url, "--once").out
    for words in ("Experts", "adder", "active", "Engines", "p95", "2 x 200", "1 aggregated"):
        assert words in shown


def test_top_goes_on_until_it_is_interrupted(
    served: Running, symmoe_command: Symmoe, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[object] = []
    look = symmoe.cli.top.look

    def twice(url: str, key: str | None) -> object:
        if len(looks) == 2:
            raise KeyboardInterrupt
        looks.append(look(url, key))
        return looks[-1]

    monkeypatch.setattr(symmoe.cli.top, "look", twice)
    assert symmoe_command("top", "--url", served.url, "--every", "0.2").code == 130
    assert len(looks) == 2


def test_top_shows_what_it_may_where_the_admin_path_is_closed(tmp_path: Path, symmoe_command: Symmoe) -> None:
    with running(tmp_path / "closed", Settings()) as closed:
        seen = symmoe_command("top", "--url", closed.url, "--json").json
    assert seen["engines"] == []
    assert [each["state"] for each in seen["experts"]] == ["active"] * 4


def test_what_is_no_service_is_said(symmoe_command: Symmoe) -> None:
    import http.server

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    said = symmoe_command("top", "--url", f"http://127.0.0.1:{server.server_port}", "--once")
    server.shutdown()
    thread.join(10)
    server.server_close()
    assert said.code == 2
    assert "status 404" in said.errors[0]
    assert symmoe_command("top", "--url", "not a url", "--once").code == 2


def test_experts_are_listed_and_changed_from_the_command_line(served: Running, symmoe_command: Symmoe) -> None:
    def run(*words: str) -> Any:
        return symmoe_command("expert", *words, "--service", served.url, "--json").json

    assert run("quarantine", "adder", "--why", "it rambles")["state"] == "quarantined"
    assert run("drain", "sorter")["state"] == "draining"
    listed = {each["name"]: each for each in run("list")["data"]}
    assert (listed["adder"]["state"], listed["adder"]["why"]) == ("quarantined", "it rambles")
    assert run("restore", "adder")["state"] == "active"
    assert run("add", "poet", "--model", "org/base", "--adapter", "./poet")["added"] is True
    ask(served, "poet")
    assert run("remove", "poet")["deleted"] is True
    assert run("remove", "poet")["error"]["message"].startswith("no such expert")
    assert "sorter" in symmoe_command("expert", "list", "--service", served.url).out
    assert symmoe_command("expert", "restore", "sorter", "--service", served.url).out == "sorter is active\n"


def test_an_expert_joins_with_the_record_that_was_made_for_it(
    served: Running, symmoe_command: Symmoe, tmp_path: Path
) -> None:
    pool, out = tmp_path / "served" / "pool.yaml", tmp_path / "grown.yaml"
    words = ["expert", "add", "poet", "--model", "org/base", "--pool", pool, "-o", out, "--service", served.url]
    assert symmoe_command(*words, "--json").json["expert"] == "poet"
    assert out.exists()
    poet = {each["name"]: each for each in served.get("/v1/admin/experts").json()["data"]}["poet"]
    assert (poet["added"], poet["routed"]) == (True, True)
    said = symmoe_command("expert", "add", "other", "--model", "org/base")
    assert said.code == 2
    assert "--service" in said.err


def test_quantiles_are_prometheus_own() -> None:
    lines = ['x_bucket{le="1.0"} 2', 'x_bucket{le="2.0"} 4', 'x_bucket{le="+Inf"} 4', "x_count 4", "x_sum 5"]
    samples = Samples("\n".join(["# TYPE x histogram", *lines, ""]))
    assert samples.quantile("x", 0.5) == 1.0
    assert samples.quantile("x", 0.75) == 1.5
    assert samples.quantile("y", 0.5) is None
