"""Images at every door: who is asked about them, and what an expert is shown."""

from __future__ import annotations

import io
import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from symmoe.deployments.remote import _body
from symmoe.deployments.settings import Settings

from symmoe.batch.lines import BadLine, GoodLine, LineReader
from symmoe.config import read_pool
from symmoe.errors import PoolError
from symmoe.limits import LARGE_BODIES
from symmoe.policy import policy_for
from symmoe.types import Message, Picture, Query, Sampling
from tests.conftest import echo_pool
from tests.deployments.batches.conftest import ended, line, rows_of, start
from tests.stores import state_in

from .conftest import Running, running

SEEING = {name: {"images": True} for name in ("adder", "speaker")}


def image(size: tuple[int, int] = (40, 30), form: str = "PNG", colour: str = "red", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, form, **options)
    return file.getvalue()


def data_url(raw: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{b64encode(raw).decode()}"


URL = data_url(image())
PART = {"type": "image_url", "image_url": {"url": URL}}


def turn(*parts: Any) -> list[dict[str, Any]]:
    said = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    return [{"role": "user", "content": said}]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("pool"), Settings(), more=SEEING) as service:
        yield service


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": turn("sums", PART)}),
        ("/v1/responses", {"input": [{"role": "user", "content": [
            {"type": "input_text", "text": "sums"}, {"type": "input_image", "image_url": URL}]}], "store": False}),
        ("/v1/messages", {"max_tokens": 16, "messages": [{"role": "user", "content": [
            {"type": "text", "text": "sums"},
            {"type": "image", "source": {"type": "base64", "data": URL.partition(",")[2]}}]}]}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_an_image_reaches_the_expert_through_every_door(
    served: Running, path: str, body: dict[str, Any], stream: bool
) -> None:
    served.engine.forget()
    response = served.post(path, json={"model": "adder", "stream": stream, **body})
    assert response.status_code == 200, response.text
    (query,) = served.engine.asked
    (shown,) = query.images
    assert (query.text, shown.at) == ("sums", 4)
    with Image.open(io.BytesIO(b64decode(shown.url.partition(",")[2]))) as seen:
        assert (seen.format, seen.size, seen.getpixel((0, 0))) == ("PNG", (40, 30), (255, 0, 0))
    if not stream:
        assert "adder: sums [image]" in response.text


def test_only_experts_that_see_are_asked_and_none_that_does_not_as_a_fallback(tmp_path: Path) -> None:
    more = {"adder": {"images": True, "fallbacks": ["speaker", "sorter"]}, "sorter": {"images": True}}
    with running(tmp_path, Settings(), more=more) as served:
        for text in ("sums", "spanish", "sorting", ""):
            whole = {"model": "symmoe/best", "messages": turn(text, PART) if text else turn(PART)}
            response = served.post(json={**whole, "symmoe": {"k": 4, "explain": True}})
            assert set(response.json()["symmoe"]["asked"]) <= {"adder", "sorter"}, text
        routed = served.post("/v1/route", json={"messages": turn("spanish", PART)}).json()
        assert "speaker" not in routed["recruited"]
        policy = policy_for(served.service.lifecycle.roster.pool, served.service.model("adder"))
        assert policy.able(("speaker",)).fallbacks == ("sorter",)


def test_who_cannot_see_says_so(served: Running, tmp_path: Path) -> None:
    error = served.post(json={"model": "sorter", "messages": turn("sums", PART)}).json()["error"]
    assert error["code"] == "unsupported_parameter"
    assert "'sorter' cannot see images" in error["message"]
    with running(tmp_path, Settings()) as blind:
        for path in ("/v1/chat/completions", "/v1/route"):
            response = blind.post(path, json={"messages": turn("sums", PART)})
            assert response.status_code == 400
            assert "no expert of this pool can see images" in response.json()["error"]["message"]


def test_images_keep_their_places_among_the_words_of_several_turns(served: Running) -> None:
    served.engine.forget()
    earlier = turn("look", PART, "and", PART)
    response = served.post(
        json={"model": "adder", "messages": [*earlier, {"role": "assistant", "content": "yes"}, *turn("sums")]}
    )
    assert response.status_code == 200
    (query,) = served.engine.asked
    assert [part if isinstance(part, str) else "*" for part in query.messages[0].parts] == ["look", "*", "and", "*"]


def test_what_is_shown_is_upright_small_enough_and_nothing_but_the_image(served: Running) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a secret"  # taken sideways
    photo = image((3000, 1000), "JPEG", exif=exif)
    served.engine.forget()
    assert (
        served.post(
            json={
                "model": "adder",
                "messages": turn("sums", {"type": "image_url", "image_url": {"url": data_url(photo, "image/jpeg")}}),
            }
        ).status_code
        == 200
    )
    shown = b64decode(served.engine.asked[0].images[0].url.partition(",")[2])
    with Image.open(io.BytesIO(shown)) as seen:
        assert (seen.format, seen.size) == ("JPEG", (683, 2048))
    assert b"a secret" not in shown


@pytest.mark.parametrize(
    "messages",
    [
        turn("sums", {"type": "image_url"}),
        turn("sums", {"type": "image_url", "image_url": URL}),
        turn("sums", {"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}),
        turn("sums", {"type": "image", "source": {}}),
        turn("sums", *[PART] * 17),
        [{"role": "assistant", "content": [PART]}, *turn("sums")],
        [{"role": "system", "content": [PART]}, *turn("sums")],
    ],
)
def test_images_where_and_as_they_cannot_be_are_400(served: Running, messages: Any) -> None:
    response = served.post(json={"model": "adder", "messages": messages})
    assert response.status_code == 400, response.text


def test_a_body_may_be_larger_for_its_images_where_an_expert_sees_and_nowhere_else(tmp_path: Path) -> None:
    noise = io.BytesIO()
    Image.effect_noise((1400, 1400), 100).save(noise, "PNG")
    assert len(noise.getvalue()) > 1 << 20
    messages = turn("sums", {"type": "image_url", "image_url": {"url": data_url(noise.getvalue())}})
    with running(tmp_path / "a", Settings(), more=SEEING) as served:
        assert served.post(json={"model": "adder", "messages": messages}).status_code == 200
        padded = {"model": "adder", "messages": turn("sums", PART), "user": "x" * (1 << 20)}
        for _ in range(LARGE_BODIES + 1):  # places are given back
            assert served.post(json=padded).status_code == 200
    with running(tmp_path / "b", Settings()) as blind:
        assert blind.post(json={"model": "adder", "messages": messages}).status_code == 413


def test_lines_of_batches_show_images_here_and_in_the_service(tmp_path: Path) -> None:
    good = {"model": "adder", "messages": turn("sums", PART)}
    bad = {"model": "adder", "messages": turn("sums", {"type": "image_url", "image_url": {"url": data_url(b"<svg/>")}})}
    with state_in(tmp_path), running(tmp_path, Settings(), more=SEEING) as served:
        over = ended(served.openai, start(served.openai, [line(0, body=good), line(1, body=bad)]))
        (row,) = rows_of(served.openai, over.output_file_id)
        assert row["response"]["body"]["choices"][0]["message"]["content"] == "adder: sums [image]"
        (failed,) = rows_of(served.openai, over.error_file_id)
        assert failed["response"]["body"]["error"]["code"] == "invalid_image"
    path = tmp_path / "lines.jsonl"
    at_url = {
        "model": "adder",
        "messages": turn({"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}),
    }
    blind = {"model": "sorter", "messages": turn("sums", PART)}
    path.write_text("".join(json.dumps(line(n, body=body)) + "\n" for n, body in enumerate((good, bad, at_url, blind))))
    first, *rest = LineReader(read_pool(str(echo_pool(tmp_path, more=SEEING)))).read(path)
    assert isinstance(first, GoodLine)
    assert first.queries[0].images
    codes = [each.code for each in rest if isinstance(each, BadLine)]
    assert codes == ["invalid_image", "invalid_image", "unsupported_parameter"]


def test_a_remote_expert_is_sent_images_as_parts() -> None:
    query = Query("q", (Message("user", "look", images=(Picture(URL, 4),)),), Sampling(4))
    assert _body("m", query)["messages"] == [{"role": "user", "content": [{"type": "text", "text": "look"}, PART]}]


def test_a_dedicated_expert_that_sees_is_refused_in_the_pool_file(tmp_path: Path) -> None:
    more = {"adder": {"images": True, "dedicated": True}}
    with pytest.raises(PoolError, match="cannot be shown images"):
        read_pool(str(echo_pool(tmp_path, more=more, engine={"kind": "vllm"})))
