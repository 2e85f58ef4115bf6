from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from symmoe.deployments.access.keys import Open, new_key
from symmoe.deployments.console.console import COOKIE, MARK
from symmoe.deployments.settings import Settings

from symmoe.config import read_pool
from tests.deployments.access.conftest import ask as ask_by_key
from tests.deployments.access.conftest import keyed, make_key
from tests.deployments.api.conftest import Running, running
from tests.deployments.batches.conftest import line
from tests.stores import state_in

from .conftest import SETTINGS, ask, axe

PARTS = ("responseBodySize", "responseHeadersSize")
PAGES = ("ask", "traces", "pool", "skills", "batches", "keys")
QUESTION = "sums or spanish: what is 2 plus 3?"


def test_a_question_is_answered_with_its_way_beside_it(served: Running, page: Any) -> None:
    ask(page, served, QUESTION)
    assert page.locator(".answer .words").inner_text() == f"adder: {QUESTION}"
    way = page.locator(".way")
    for title in ("Skills", "Experts", "Candidates", "Votes", "Times"):
        assert way.get_by_role("heading", name=title).is_visible()
    assert way.locator(".experts tbody th").first.inner_text() == "adderasked"
    assert way.locator(".experts .interval").count() == 4
    assert [each.inner_text() for each in way.locator(".candidate b").all()] == ["adder", "speaker", "broken"]
    assert "route" in way.locator(".waterfall").inner_text()


@pytest.mark.slow
def test_a_link_shows_the_same_again_and_looks_back_on_other_settings(served: Running, page: Any) -> None:
    ask(page, served, QUESTION)
    page.get_by_role("link", name="Trace", exact=True).click()
    page.get_by_role("heading", name="What if").wait_for()
    assert page.locator(".way .words").first.inner_text() == QUESTION
    page.get_by_label("Without").select_option("adder")
    page.get_by_label("Quality, 0 to 1").fill("1")
    page.get_by_role("button", name="Look back").click()
    page.get_by_role("status").locator(".words").wait_for()
    assert page.get_by_role("status").locator(".words").inner_text() == f"speaker: {QUESTION}"


@pytest.mark.slow
def test_two_settings_are_compared(served: Running, page: Any) -> None:
    page.goto(f"{served.url}/console")
    page.get_by_label("Question").fill("sorting things")
    page.get_by_label("Compare two settings").check()
    page.get_by_label("Model").nth(0).select_option("adder")
    page.get_by_label("Model").nth(1).select_option("sorter")
    page.get_by_label("Question").press("Control+Enter")
    page.locator(".status .chip.good").nth(1).wait_for()
    assert page.locator(".answer .words").all_inner_texts() == ["adder: sorting things", "sorter: sorting things"]


@pytest.mark.slow
def test_traces_are_searched_for_by_expert(served: Running, page: Any) -> None:
    ask(page, served, "spanish words", "speaker")
    page.goto(f"{served.url}/console#/traces")
    page.get_by_label("Expert").fill("speaker")
    page.get_by_label("Model").fill("speaker")
    page.get_by_role("button", name="Search").click()
    page.locator("tbody tr").first.wait_for()
    assert {row.split("\t")[2] for row in page.locator("tbody tr").all_inner_texts()} == {"speaker"}
    page.get_by_label("Expert").fill("nobody")
    page.get_by_role("button", name="Search").click()
    page.get_by_text("No trace fits").wait_for()


@pytest.mark.slow
def test_an_expert_is_drained_and_resumed(served: Running, page: Any) -> None:
    page.goto(f"{served.url}/console#/pool")
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="sorter"))
    row.get_by_role("button", name="Drain").click()
    row.get_by_text("draining").wait_for()
    assert served.post(json={"model": "sorter", "messages": [{"role": "user", "content": "x"}]}).status_code == 503
    row.get_by_role("button", name="Resume").click()
    row.get_by_text("active").wait_for()
    assert page.get_by_role("heading", name="Engines").locator("..").inner_text().strip().endswith("B")  # of memory


@pytest.mark.slow
def test_skills_begin_with_the_weakest_and_sort_by_expert(served: Running, page: Any) -> None:
    page.goto(f"{served.url}/console#/skills")
    matrix = page.locator(".matrix")
    matrix.locator("tbody tr").first.wait_for()
    assert matrix.locator("tbody tr").count() == 3
    matrix.get_by_role("button", name="sorter").click()
    assert matrix.locator("tbody th").first.inner_text() == "sorting"
    assert matrix.locator("[aria-sort=descending]").inner_text().startswith("sorter")


def test_how_records_changed_is_drawn_and_told(tmp_path: Path, page: Any) -> None:
    with state_in(tmp_path / "own"):
        with running(tmp_path, SETTINGS, Open(True), console=True, remembers=True) as served:
            page.goto(f"{served.url}/console#/skills")
            page.get_by_text("Nothing has changed since").wait_for()
            assert page.get_by_role("table", name="Changes of records").locator("tbody tr").count() == 4
        file = tmp_path / "profiles.json"
        document = json.loads(file.read_text(encoding="utf-8"))
        document["experts"]["adder"] |= {"overall": [12, 8], "skills": {"sums": [5, 5], "sorting": [0, 3]}}
        file.write_text(json.dumps(document), encoding="utf-8")
        pool = read_pool(str(tmp_path / "pool.yaml"))
        with running(tmp_path, SETTINGS, Open(True), console=True, remembers=True, pool=pool) as served:
            page.goto(f"{served.url}/console#/skills")
            page.get_by_role("img", name="adder: 83.3 % at first, 59.1 % now, 2 versions").wait_for()
            rows = page.get_by_role("table", name="Changes of records").locator("tbody tr")
            assert "updated\t83.3 %\t59.1 %" in rows.first.inner_text()
            page.get_by_label("Expert", exact=True).select_option("adder")
            page.get_by_label("Skill", exact=True).select_option("sums")
            page.get_by_role("img", name="adder: 90.9 % at first, 50.0 % now, 2 versions").wait_for()
            assert rows.count() == 2


@pytest.mark.slow
def test_whom_routing_chose_for_a_skill_stands_beside_the_best(served: Running, page: Any) -> None:
    for _ in range(2):
        ask(page, served, "sums of things", "symmoe/fast")
    page.goto(f"{served.url}/console#/skills")
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="sums"))
    assert "lately" in row.inner_text()
    chosen = served.get("/v1/admin/skills").json()["chosen"]
    assert chosen["sums"]["adder"] >= 2


@pytest.mark.slow
def test_a_batch_is_uploaded_watched_and_fetched(served: Running, page: Any, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(json.dumps(line(number)) + "\n" for number in range(6)), encoding="utf-8")
    page.goto(f"{served.url}/console#/batches")
    page.get_by_label("File", exact=True).set_input_files(path)
    page.get_by_role("button", name="Upload and start").click()
    page.get_by_text("6 of 6 answered").wait_for()
    page.get_by_text("What ran").first.click()
    page.locator("details[open] .piece.work").first.wait_for()
    assert page.locator("details[open] .waterfall .name").all_inner_texts() == ["adder", "sorter", "speaker"]
    page.get_by_text("What ran").first.click()
    with page.expect_download() as fetched:
        page.get_by_role("button", name="Answers").first.click()
    rows = Path(fetched.value.path()).read_text(encoding="utf-8").splitlines()
    assert {json.loads(row)["custom_id"] for row in rows} == {f"line-{number}" for number in range(6)}


@pytest.mark.slow
def test_a_batch_that_cannot_be_read_says_in_which_line(served: Running, page: Any, tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text(json.dumps(line(0)) + "\nnot json\n", encoding="utf-8")
    page.goto(f"{served.url}/console#/batches")
    page.get_by_label("File", exact=True).set_input_files(path)
    page.get_by_role("button", name="Upload and start").click()
    row = page.get_by_role("row").filter(has_text="broken.jsonl").filter(has_text="1 failed")
    row.get_by_text("Why").click()
    assert row.locator("li").inner_text().startswith("line 2")


@pytest.mark.slow
def test_a_key_is_made_shown_once_and_revoked(served: Running, page: Any) -> None:
    page.goto(f"{served.url}/console#/keys")
    page.get_by_label("Name").fill("team-a")
    page.get_by_role("button", name="Make key").click()
    assert page.locator(".secret").inner_text().startswith("sk-symmoe-")
    row = page.get_by_role("row").filter(has_text="team-a")
    page.on("dialog", lambda dialog: dialog.accept())
    first = page.locator(".secret").inner_text()
    row.get_by_role("button", name="Rotate").click()
    page.wait_for_function("first => document.querySelector('.secret').innerText !== first", arg=first)
    assert row.count() == 2
    row = row.first
    row.get_by_role("button", name="Revoke").click()
    row.get_by_text("revoked").wait_for()
    page.reload()
    row.get_by_text("revoked").wait_for()
    assert page.locator(".secret").count() == 0


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_serious_keeps_anybody_out(served: Running, browser: Any, scheme: str) -> None:
    with browser.new_context(color_scheme=scheme, viewport={"width": 1280, "height": 860}) as context:
        page = context.new_page()
        ask(page, served, QUESTION)
        page.get_by_role("link", name="Trace", exact=True).click()
        page.get_by_role("heading", name="What if").wait_for()
        seen = [page.url, *(f"{served.url}/console#/{name}" for name in PAGES)]
        for url in seen:
            page.goto("about:blank")  # or the page before may be taken for this one
            page.goto(url)
            page.get_by_role("heading", level=1).wait_for()
            page.wait_for_load_state("networkidle")
            page.evaluate(axe())
            found = page.evaluate("async () => (await axe.run()).violations")
            serious = {each["id"]: [node["html"] for node in each["nodes"]][:3] for each in found}
            assert serious == {}, url


@pytest.mark.slow
def test_everything_can_be_done_by_keyboard(served: Running, page: Any) -> None:
    page.goto(f"{served.url}/console")
    page.get_by_label("Question").wait_for()
    page.keyboard.type("sums by keys")  # the question is where one begins
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.tagName") == "SELECT"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.locator(".status .chip.good").wait_for()
    reached = set()
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.textContent.trim()"))
    assert {"Trace", "Copy link", "Traces", "Pool", "Skip to content"} <= reached


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_tab_leads_to_all_that_can_be_used(served: Running, page: Any, name: str) -> None:
    page.goto(f"{served.url}/console#/{name}")
    page.get_by_role("heading", level=1).wait_for()
    page.wait_for_load_state("networkidle")
    controls = "a[href], button, input, select, textarea, summary, [tabindex='0']"
    visible = page.locator(controls).filter(visible=True)
    page.evaluate(
        "controls => document.querySelectorAll(controls).forEach((each) => each.dataset.wanted = '')", controls
    )
    page.evaluate("document.activeElement.blur()")
    for _ in range(visible.count() + 2):
        page.keyboard.press("Tab")
        page.evaluate("delete document.activeElement.dataset.wanted")
    missed = page.locator("[data-wanted]:not(:disabled)").filter(visible=True)
    assert missed.evaluate_all("found => found.map((each) => each.outerHTML.slice(0, 120))") == []


@pytest.mark.slow
@pytest.mark.parametrize("name", PAGES)
def test_nothing_stands_beyond_the_edge_of_a_phone(served: Running, browser: Any, name: str) -> None:
    with browser.new_context(viewport={"width": 390, "height": 800}) as context:
        page = context.new_page()
        page.goto(f"{served.url}/console#/{name}")
        page.get_by_role("heading", level=1).wait_for()
        page.wait_for_load_state("networkidle")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_first_page_is_small(served: Running, page: Any) -> None:
    sizes: list[int] = []
    page.on("requestfinished", lambda request: sizes.append(sum(request.sizes()[part] for part in PARTS)))
    page.goto(f"{served.url}/console")
    page.get_by_label("Question").wait_for()
    page.wait_for_load_state("networkidle")
    assert len(sizes) > 5
    assert sum(sizes) <= 150_000


@pytest.mark.slow
def test_what_was_used_is_added_up(served: Running, page: Any) -> None:
    ask(page, served, "sums once more", "adder")
    page.goto(f"{served.url}/console#/keys")
    page.get_by_role("heading", name="Usage").wait_for()
    page.get_by_label("Show").select_option("expert")
    row = page.get_by_role("row").filter(has=page.get_by_role("rowheader", name="adder"))
    assert int(row.locator("td").first.inner_text()) >= 1


@pytest.mark.slow
def test_a_person_logs_in_and_out(state: Path, tmp_path: Path, page: Any) -> None:
    key, record = make_key()
    with keyed(tmp_path, Settings(), console=True) as served:
        page.goto(f"{served.url}/console")
        page.get_by_label("Key").fill("sk-none")
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("not known here").wait_for()
        page.get_by_label("Key").fill(key)
        page.keyboard.press("Enter")
        page.get_by_label("Question").wait_for()
        assert page.get_by_role("link", name="Pool").count() == 0
        assert page.evaluate("document.cookie") == ""
        page.get_by_text(record.id).wait_for()
        page.get_by_role("button", name="Log out").click()
        page.get_by_label("Key").wait_for()


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

        ask_by_key(served, mine)
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
