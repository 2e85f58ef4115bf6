"""Logging in, and what is refused: requests without a key, of another site, for what is another's."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from symmoe.deployments.access.key_records import new_key
from symmoe.deployments.console.console import COOKIE, MARK
from symmoe.deployments.settings import Settings

from tests.deployments.access.conftest import ask, keyed, make_key
from tests.deployments.api.conftest import Running, running

MARKED = {MARK: "1"}


def session(served: Running, key: str, **headers: str) -> httpx.Response:
    told = {"origin": served.url, **MARKED, **headers}
    return served.post("/console/session", json={"key": key}, headers={k: v for k, v in told.items() if v})


def test_a_key_becomes_a_cookie_that_no_script_reads(state: Path, tmp_path: Path) -> None:
    key, record = make_key()
    with keyed(tmp_path, Settings(), console=True) as served:
        assert session(served, new_key()).status_code == 401
        response = session(served, key)
        attributes = response.headers["set-cookie"].lower()
        assert all(each in attributes for each in ("httponly", "samesite=strict", "path=/"))
        cookie = {"cookie": f"{COOKIE}={key}"}
        assert served.get("/v1/key", headers={**cookie, **MARKED}).json()["id"] == record.id
        assert served.get("/v1/key", headers={"authorization": f"Bearer {key}"}).json()["scope"] == "ask"
        assert served.get("/v1/key").status_code == 401
        assert served.get("/v1/admin/keys", headers={**cookie, **MARKED}).status_code == 403
        gone = served.delete("/console/session", headers={"origin": served.url, **MARKED})
        assert 'symmoe_key=""' in gone.headers["set-cookie"]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://elsewhere.example"},
        {"origin": "http://127.0.0.1:1"},
        {"origin": "null"},
        {"origin": ""},
        {MARK: ""},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site"},
    ],
)
def test_what_another_site_sends_with_the_cookie_is_refused(
    state: Path, tmp_path: Path, headers: dict[str, str]
) -> None:
    key, _ = make_key()
    with keyed(tmp_path, Settings(), console=True) as served:
        assert session(served, key, **headers).status_code == 403
        told = {"origin": served.url, **MARKED, "cookie": f"{COOKIE}={key}", **headers}
        body = {"model": "adder", "messages": [{"role": "user", "content": "sums"}]}
        sent = served.post(json=body, headers={name: value for name, value in told.items() if value})
        assert (sent.status_code, sent.json()["error"]["code"]) == (403, "cross_site")
        good = served.post(json=body, headers={"origin": served.url, **MARKED, "cookie": f"{COOKIE}={key}"})
        assert good.status_code == 200


def test_a_plain_key_sees_its_own_traces_and_an_admin_everybodys(state: Path, tmp_path: Path) -> None:
    (mine, record), (other, _), (admin, _) = make_key(), make_key(), make_key(admin=True)
    with keyed(tmp_path, Settings(traces="metadata"), console=True) as served:

        def get(path: str, key: str) -> httpx.Response:
            return served.get(path, headers={"cookie": f"{COOKIE}={key}", **MARKED})

        ask(served, mine)
        (trace,) = get("/v1/traces", mine).json()["data"]
        assert trace["key"] == record.id
        assert get("/v1/traces", other).json()["data"] == []
        assert get(f"/v1/traces?key={record.id}", other).json()["data"] == []
        for ident in (trace["id"], trace["request"]):
            assert get(f"/v1/traces/{ident}", other).status_code == 404
            assert get(f"/v1/traces/{ident}", mine).json()["id"] == trace["id"]
            assert get(f"/v1/traces/{ident}", admin).json()["id"] == trace["id"]
        assert len(get(f"/v1/traces?key={record.id}", admin).json()["data"]) == 1
        for path in ("keys", "skills", "timeline", "experts", "usage"):
            statuses = [get(f"/v1/admin/{path}", key).status_code for key in ("", other, admin)]
            assert statuses == [401, 403, 200], path


def test_its_files_allow_no_script_but_their_own(state: Path, tmp_path: Path) -> None:
    with running(tmp_path, Settings(), console=True) as served:
        found = served.get("/console")
        policy = found.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "<script>" not in found.text
        assert " on" not in "".join(found.text.split("<")[1:]).replace(" on ", "")
        assert served.get("/console/app.js").headers["content-type"].startswith("text/javascript")
        for path in ("/console/../app.py", "/console/%2e%2e/app.py", "/console/none.js", "/console/console.py"):
            assert served.get(path).status_code == 404
        assert served.post("/console").status_code == 405
        assert served.get("/console", headers={"if-none-match": found.headers["etag"]}).status_code == 304
        assert served.get("/console", headers={"host": "elsewhere.example"}).status_code == 403


def test_without_it_there_is_no_page(state: Path, tmp_path: Path) -> None:
    with running(tmp_path, Settings(console=False)) as served:
        assert served.get("/console").status_code == 404


def test_who_answers_knows_nothing_of_it() -> None:
    code = "import sys, symmoe.deployments.app; sys.exit(any('deployments.console' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
