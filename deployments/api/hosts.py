"""The host names under which a service without keys may be asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from urllib.parse import urlsplit

from ..access.keys import is_loopback
from ..errors import ApiError

ANY = "*"


def check_host(headers: Iterable[tuple[bytes, bytes]], hosts: Sequence[str], origins: Sequence[str] = ()) -> None:
    """Raise `ApiError` for a request to a host other than this machine and `hosts`, or by a page from elsewhere.

    Pages of `origins` may ask, under this machine's own names too. Without this check a site could point its own name
    at this machine, and its pages could then ask and read as if they came from here.
    """
    if ANY in hosts:
        return
    sent_to = [f"//{value.decode('latin-1')}" for name, value in headers if name == b"host"]
    come_from = [value.decode("latin-1") for name, value in headers if name == b"origin"]
    come_from = [] if ANY in origins else [each for each in come_from if each not in origins]
    if len(sent_to) != 1 or not all(_is_known(each, hosts) for each in (*sent_to, *come_from)):
        message = "without keys, only this machine's own names are taken, and no pages of other sites"
        raise ApiError(403, "cross_site", message)


def _is_known(place: str, hosts: Sequence[str]) -> bool:
    try:
        host = urlsplit(place).hostname or ""
    except ValueError:
        return False
    return is_loopback(host) or host in hosts
