"""Checks the images of requests, one after another in a thread, fetching those given by URL where that is allowed."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpcore

from symmoe.images import data_in, is_data, looked_at, refused, showing
from symmoe.limits import IMAGE_BYTES, IMAGE_REDIRECTS, IMAGE_SECONDS, IMAGE_URL_CHARACTERS
from symmoe.types import Query

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Pictures:
    """Converts the images of queries to what experts are shown. `fetcher` is None where URLs are not allowed."""

    def __init__(self, fetcher: Fetcher | None) -> None:
        self._fetcher = fetcher
        self._thread = ThreadPoolExecutor(1, "images")  # one at a time: each may take a hundred megabytes

    async def settled(self, query: Query) -> Query:
        """The query with its images checked and converted. Raises `RequestError`."""
        if not query.images:
            return query
        return showing(query, [await self._settled(picture.url) for picture in query.images])

    async def _settled(self, url: str) -> str:
        loop = asyncio.get_running_loop()
        if is_data(url):
            return await loop.run_in_executor(self._thread, lambda: looked_at(data_in(url)))
        if self._fetcher is None:
            raise refused("this service fetches no images; send it as a data URL (data:image/png;base64,…)")
        raw = await self._fetcher.fetch(url)
        return await loop.run_in_executor(self._thread, looked_at, raw)


class Fetcher:
    """Fetches images from public addresses.

    A host's addresses are looked up once, each must be `public`, and the connection goes to one of them: a name that
    resolves elsewhere a moment later leads nowhere else. The same holds for every redirect. No proxy is used, and
    nothing but the request is sent: no cookies, no keys.
    """

    def __init__(self, public: Callable[[str], bool] | None = None, resolve: Resolve | None = None) -> None:
        self._backend = _Checked(public or is_public, resolve or _resolve)

    async def fetch(self, url: str) -> bytes:
        """The content of a URL. Raises `RequestError`."""
        try:
            async with asyncio.timeout(IMAGE_SECONDS):
                return await self._followed(url)
        except TimeoutError as error:
            raise refused(f"it could not be fetched within {IMAGE_SECONDS:g} s") from error
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException, OSError) as error:
            raise refused("it cannot be fetched from there") from error

    async def _followed(self, url: str) -> bytes:
        async with httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context(), network_backend=self._backend, max_connections=1
        ) as pool:
            for _ in range(IMAGE_REDIRECTS + 1):
                _check(url)
                headers = [("host", urlsplit(url).netloc), ("accept", "image/*"), ("accept-encoding", "identity")]
                async with pool.stream("GET", url, headers=headers) as response:
                    response_headers = {name.lower(): value.decode("latin-1") for name, value in response.headers}
                    if response.status not in (301, 302, 303, 307, 308):
                        return await _body(response, response_headers)
                    url = urljoin(url, response_headers.get(b"location", ""))
        raise refused(f"more than {IMAGE_REDIRECTS} redirects")


class _Checked(httpcore.AsyncNetworkBackend):
    """Connects to the address that was looked at, and to none that is not public."""

    def __init__(self, public: Callable[[str], bool], resolve: Resolve) -> None:
        self._public, self._resolve = public, resolve
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """A connection to the host. Raises `RequestError` for one that is not public."""
        addresses = await self._resolve(host, port)
        if not addresses or not all(map(self._public, addresses)):
            raise refused("images are fetched from public addresses alone")
        return await self._plain.connect_tcp(addresses[0], port, timeout, local_address, socket_options)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)


def is_public(address: str) -> bool:
    """Whether an address is on the public internet, not private or local, also if it wraps another address."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo or (None, None))[1]
        if parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return parsed.is_global and not parsed.is_multicast


async def _resolve(host: str, port: int) -> list[str]:
    addresses = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in addresses]


def _check(url: str) -> None:
    try:
        parts = urlsplit(url)
        well = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 and "@" not in parts.netloc
    except ValueError:
        well = False
    if not well or len(url) > IMAGE_URL_CHARACTERS or not url.isascii() or not url.isprintable():
        raise refused("its URL is none of http or https, without a name or password, in printable ASCII")


async def _body(response: httpcore.Response, headers: dict[bytes, str]) -> bytes:
    if response.status != 200:
        raise refused(f"its URL answered with status {response.status}")
    kind = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if not kind.startswith("image/") or kind.startswith("image/svg"):
        raise refused("what is at its URL is no image that is taken")
    if headers.get(b"content-encoding", "identity").lower() not in ("", "identity"):
        raise refused("what is at its URL comes in an encoding that was not asked for")
    raw = bytearray()
    async for chunk in response.aiter_stream():
        raw += chunk
        if len(raw) > IMAGE_BYTES:
            raise refused(f"an image has at most {IMAGE_BYTES} bytes")
    return bytes(raw)
