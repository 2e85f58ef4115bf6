"""Images that are too large, hold more than they say, are none, or lie where nobody but this machine may look."""

from __future__ import annotations

import io
import socket
import struct
import threading
import zlib
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from symmoe.deployments.pictures import Fetcher, Pictures, is_public
from symmoe.deployments.settings import Settings

from symmoe.limits import IMAGE_BYTES
from tests.deployments.api.conftest import PATIENCE, Running, running

SEEING = {"adder": {"images": True}}
MIB = 1 << 20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("pool"), Settings(), more=SEEING) as service:
        yield service


def asked(url: str) -> dict[str, Any]:
    parts = [{"type": "text", "text": "sums"}, {"type": "image_url", "image_url": {"url": url}}]
    return {"model": "adder", "messages": [{"role": "user", "content": parts}]}


def shown(served: Running, raw: bytes, kind: str = "image/png") -> httpx.Response:
    return served.post(json=asked(f"data:{kind};base64,{b64encode(raw).decode()}"))


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def zeros(count: int) -> bytes:
    """So many zeros, compressed."""
    packing = zlib.compressobj(9)
    return b"".join(packing.compress(bytes(min(MIB, count - at))) for at in range(0, count, MIB)) + packing.flush()


def png(width: int, height: int, *more: bytes, depth: int = 8, colour: int = 6) -> bytes:
    """A PNG of nothing, with further chunks."""
    row = 1 + (width * depth * {0: 1, 6: 4}[colour] + 7) // 8
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zeros(row * height)) + chunk(b"IEND", b"")


@contextmanager
def most_memory(mib: float) -> Iterator[None]:
    """No more memory than so much is taken meanwhile beyond what is taken before."""

    def peak(what: str) -> int:
        rows = Path("/proc/self/status").read_text().splitlines()
        return int(next(row for row in rows if row.startswith(what)).split()[1]) // 1024

    Path("/proc/self/clear_refs").write_text("5")
    before = peak("VmRSS")
    yield
    assert peak("VmHWM") - before < mib


def test_an_image_of_100_megabytes_is_not_read_to_its_end(served: Running) -> None:
    def body(sent: list[int]) -> Iterator[bytes]:
        yield b'{"model": "adder", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {'
        yield b'"url": "data:image/png;base64,'
        for _ in range(100):
            sent.append(MIB)
            yield b"A" * MIB
        yield b'"}}]}]}'

    sent: list[int] = []
    with most_memory(100):
        told = {"content-type": "application/json"}
        try:
            assert served.post(content=body(sent), headers=told).status_code == 413
        except httpx.WriteError:  # the connection is closed on who goes on sending
            assert sum(sent) < 100 * MIB
        where = (served.url.removeprefix("http://").split(":")[0], int(served.url.rsplit(":", 1)[1]))
        with socket.create_connection(where, timeout=PATIENCE) as connection:
            head = f"content-type: application/json\r\nhost: localhost\r\ncontent-length: {100 * MIB}\r\n\r\n"
            connection.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{head}".encode())
            assert b" 413 " in connection.recv(100)
    assert shown(served, bytes(IMAGE_BYTES + 3)).json()["error"]["code"] in ("invalid_image", "request_too_large")


BOMBS = {
    "more pixels than any image has": lambda: png(30_000, 30_000, depth=1, colour=0),
    "a text that unpacks to 200 MB": lambda: png(8, 8, chunk(b"zTXt", b"t\0\0" + zeros(200 * MIB))),
    "a profile that unpacks to 200 MB": lambda: png(8, 8, chunk(b"iCCP", b"p\0\0" + zeros(200 * MIB))),
    "a header that lies about its size": lambda: b"GIF89a" + struct.pack("<HH", 65_535, 65_535) + bytes(64),
    "svg": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    "html": lambda: b"<!doctype html><script>alert(1)</script>",
    "pdf": lambda: b"%PDF-1.7\n",
    "postscript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    "tiff": lambda: b"II*\0" + bytes(64),
    "nothing": lambda: b"",
    "half a png": lambda: png(64, 64)[:60],
    "bytes": lambda: bytes(range(256)) * 64,
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_is_no_image_or_too_much_of_one_is_a_400_and_takes_no_memory(served: Running, bomb: str) -> None:
    raw = BOMBS[bomb]()
    with most_memory(150):
        response = shown(served, raw)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_image"), response.text
    assert "Traceback" not in response.text


def test_many_of_the_largest_at_once_are_looked_at_one_after_another(served: Running) -> None:
    raw = png(5000, 5000)
    with most_memory(450), ThreadPoolExecutor(5) as threads:
        assert {response.status_code for response in threads.map(lambda _: shown(served, raw), range(5))} == {200}


@pytest.mark.parametrize(
    "url",
    [
        *("data:image/png;base64,!!!!", "data:image/png,abc", "data:image/png;base64,AAA", "data:image/"),
        *("https://example.org/a.png", "http://127.0.0.1/a.png"),
    ],
)
def test_urls_that_hold_no_image_are_a_400(served: Running, url: str) -> None:
    response = served.post(json=asked(url))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_image")


@pytest.mark.parametrize(
    "address",
    """0.0.0.0 10.1.2.3 100.64.0.1 127.0.0.1 127.9.9.9 169.254.169.254 172.16.0.1 192.168.1.1 192.0.2.1 198.18.0.1
    224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 64:ff9b::7f00:1 64:ff9b::a00:1
    2002:7f00:1:: fc00::1 fe80::1 fe80::1%eth0 ff02::1 2001:db8::1""".split(),
)
def test_no_address_but_the_internet_s_is_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_addresses_of_the_internet_are(address: str) -> None:
    assert is_public(address)


class Site(BaseHTTPRequestHandler):
    """Answers by the path; notes who came."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(f"{self.server.server_address[0]!s}{self.path} {self.headers['host']}")
        private = f"http://127.0.0.1:{self.server.server_address[1]}/good"
        answers: dict[str, tuple[int, dict[str, str], bytes]] = {
            "/good": (200, {"content-type": "image/png"}, png(8, 8)),
            "/to-good": (302, {"location": "/good"}, b""),
            "/to-private": (302, {"location": private}, b""),
            "/to-file": (302, {"location": "file:///etc/passwd"}, b""),
            "/loop": (302, {"location": "/loop"}, b""),
            "/nowhere": (302, {}, b""),
            "/html": (200, {"content-type": "text/html"}, png(8, 8)),
            "/svg": (200, {"content-type": "image/svg+xml"}, b"<svg/>"),
            "/packed": (200, {"content-type": "image/png", "content-encoding": "gzip"}, png(8, 8)),
            "/gone": (404, {"content-type": "image/png"}, png(8, 8)),
        }
        if self.path == "/endless":
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.end_headers()
            try:
                while True:
                    self.wfile.write(bytes(MIB))
            except OSError:
                return
        status, headers, body = answers[self.path]
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[tuple[int, list[str]]]:
    """A site at 127.0.0.2, which stands for a public address, and the same at 127.0.0.1, which does not."""
    Site.seen = []
    public = ThreadingHTTPServer(("127.0.0.2", 0), Site)
    private = ThreadingHTTPServer(("127.0.0.1", public.server_address[1]), Site)
    for server in (public, private):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield public.server_address[1], Site.seen
    for server in (public, private):
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def fetching(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("pool"), Settings(image_urls=True), more=SEEING) as service:
        yield service


async def _stands_for(host: str, port: int) -> list[str]:
    """A name's addresses; one of them changes what it means from look to look."""
    names = {"site.example": ["127.0.0.2"], "both.example": ["127.0.0.2", "127.0.0.1"], "inner.example": ["127.0.0.1"]}
    return names.get(host, [host])


@pytest.mark.parametrize("path", ["/good", "/to-good"])
def test_an_image_at_a_public_address_is_fetched_where_that_is_allowed(
    fetching: Running, site: tuple[int, list[str]], path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetcher = Fetcher(lambda address: address == "127.0.0.2", _stands_for)
    monkeypatch.setattr(fetching.service, "_pictures", Pictures(fetcher))
    response = fetching.post(json=asked(f"http://site.example:{site[0]}{path}"))
    assert response.json()["choices"][0]["message"]["content"] == "adder: sums [image]"
    assert site[1][-1] == f"127.0.0.2/good site.example:{site[0]}"


@pytest.mark.parametrize(
    "where",
    [
        *("site.example{}/to-private", "site.example{}/to-file", "site.example{}/loop", "site.example{}/nowhere"),
        *("site.example{}/html", "site.example{}/svg", "site.example{}/packed", "site.example{}/gone"),
        *("site.example{}/endless", "both.example{}/good", "inner.example{}/good", "127.0.0.1{}/good"),
        *("user:word@site.example{}/good", "site.example:0/good", "site.example:1/good", "[::1{}/good", "{}"),
    ],
)
def test_what_lies_elsewhere_or_is_something_else_is_a_400_and_nobody_is_asked_for_it(
    fetching: Running, site: tuple[int, list[str]], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetcher = Fetcher(lambda address: address == "127.0.0.2", _stands_for)
    monkeypatch.setattr(fetching.service, "_pictures", Pictures(fetcher))
    with most_memory(100):
        response = fetching.post(json=asked("http://" + where.format(f":{site[0]}")))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_image"), response.text
    assert not [seen for seen in site[1] if seen.startswith("127.0.0.1")]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "0"])
def test_no_spelling_of_this_machine_leads_to_it(fetching: Running, site: tuple[int, list[str]], host: str) -> None:
    response = fetching.post(json=asked(f"http://{host}:{site[0]}/good"))
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_image")
    assert not [seen for seen in site[1] if seen.startswith("127.0.0.1")]


def test_what_was_decoded_is_closed() -> None:
    from symmoe.images import looked_at, opened

    file = io.BytesIO()
    Image.new("RGBA", (4, 4), (1, 2, 3, 0)).save(file, "PNG")
    assert opened(looked_at(file.getvalue())).size == (4, 4)
