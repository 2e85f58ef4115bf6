"""Requests of commands to a running service."""

from __future__ import annotations

from typing import Annotated, Any

import typer

DEFAULT_URL = "http://127.0.0.1:8000"
Key = Annotated[
    str | None,
    typer.Option(
        "--key", envvar="SYMMOE_KEY", show_envvar=True, help="An API key with the scope admin; not needed on loopback."
    ),
]
_SECONDS = 60.0


def request(method: str, url: str, path: str, key: str | None, body: dict[str, Any] | None = None) -> Any:
    """Send a request to the service at `url` and return its answer: parsed JSON, else text.

    Raises `RequestError` with the service's message if it refuses, `ConfigError` if no service answers.
    """
    from symmoe.errors import ConfigError, RequestError

    try:
        import httpx
    except ModuleNotFoundError as error:
        raise ConfigError(
            "this command needs the packages of the service", hint="install them: pip install 'symmoe[serve]'"
        ) from error
    base = url.rstrip("/").removesuffix("/v1")
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    try:
        response = httpx.request(method, f"{base}{path}", json=body, headers=headers, timeout=_SECONDS)
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        raise ConfigError(
            f"no service answers at {url}: {type(error).__name__}", hint="start one with `symmoe serve`, or see --help"
        ) from error
    kind = response.headers.get("content-type", "")
    document = response.json() if kind.startswith("application/json") else response.text
    if response.is_success:
        return document
    fault = document.get("error", {}) if isinstance(document, dict) else {}
    message = fault.get("message") or f"{url} answered with status {response.status_code}"
    raise RequestError(str(message), code=str(fault.get("code") or response.status_code))
