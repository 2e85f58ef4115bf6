"""`symmoe expert list|drain|quarantine|restore|remove`: the experts of a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from . import options
from .service import DEFAULT_URL, Key, request

Name = Annotated[str, typer.Argument(metavar="NAME", help="The expert's name.")]
Service = Annotated[str, typer.Option("--service", metavar="URL", help="The address of the service.")]
Why = Annotated[str, typer.Option("--why", help="A reason, shown by `symmoe expert list`.")]
_PATH = "/v1/admin/experts"


def list_experts(service: Service = DEFAULT_URL, key: Key = None, json: options.Json = False) -> None:
    """List the experts of a running service with state, open requests and failures."""
    from .render import show, show_json, table

    found = request("GET", service, _PATH, key)
    if json:
        show_json(found)
        return
    rows = [(each["name"], each["state"], each["open"], each["failures"], each["why"]) for each in found["data"]]
    show(table(f"Experts at {service}", ("expert", "state", "open", "failures", "why"), rows, right=(2, 3)))


def drain(
    name: Name, service: Service = DEFAULT_URL, key: Key = None, why: Why = "", json: options.Json = False
) -> None:
    """Let an expert of a running service finish its open requests, and send it no new ones."""
    show_change(_act_on(service, key, name, "drain", why), json)


def quarantine(
    name: Name, service: Service = DEFAULT_URL, key: Key = None, why: Why = "", json: options.Json = False
) -> None:
    """Stop using an expert of a running service at once: its open requests go to other experts or are refused."""
    show_change(_act_on(service, key, name, "quarantine", why), json)


def restore(name: Name, service: Service = DEFAULT_URL, key: Key = None, json: options.Json = False) -> None:
    """Use an expert of a running service again that was drained or quarantined, or removed and is in the pool file."""
    show_change(_act_on(service, key, name, "restore", ""), json)


def remove(name: Name, service: Service = DEFAULT_URL, key: Key = None, json: options.Json = False) -> None:
    """Remove an expert from a running service: it finishes its open requests and is no longer listed as a model."""
    from .render import show_result

    done = request("DELETE", service, f"{_PATH}/{quote(name, safe='')}", key)
    show_result(json, done, f"{name} is removed")


def join(
    service: str | None,
    key: str | None,
    name: str,
    model: str,
    adapter: Path | None,
    description: str,
    profiles: Path | None,
) -> dict[str, Any]:
    """Add an expert to a running service, with its record in `profiles`, if given; the service's answer.

    Paths must exist on the service's machine. Raises `ConfigError` without a service, `PoolError` without a record.
    """
    from symmoe.errors import ConfigError

    if service is None:
        raise ConfigError("the expert needs a place to go", hint="give --out POOL.yaml, --service URL, or both")
    expert: dict[str, Any] = {
        "name": name,
        "model": _absolute(model, ("./", "../", "/", "~")),
        "description": description,
    }
    if adapter is not None:
        expert["adapter"] = _absolute(str(adapter), ("",))
    body = {"expert": expert, **({} if profiles is None else {"record": _record(profiles, name)})}
    joined: dict[str, Any] = request("POST", service, _PATH, key, body)
    return joined


def show_change(expert: dict[str, Any], json: bool) -> None:
    """Show the state of an expert after a change."""
    from .render import show, show_json

    if json:
        show_json(expert)
        return
    still_open = f"; {expert['open']} open" if expert["open"] else ""
    show(
        f"{expert['name']} is {expert['state']}{still_open}"
        + ("" if expert["routed"] else "; no question is routed to it")
    )


def _act_on(service: str, key: str | None, name: str, action: str, why: str) -> dict[str, Any]:
    path = f"{_PATH}/{quote(name, safe='')}/{action}"
    expert: dict[str, Any] = request("POST", service, path, key, {"why": why})
    return expert


def _absolute(source: str, beginnings: tuple[str, ...]) -> str:
    """The absolute path of a directory of this machine; anything else as it is, for the service to find."""
    path = Path(source)
    return str(path.expanduser().resolve()) if source.startswith(beginnings) and path.is_dir() else source


def _record(profiles: Path, name: str) -> Any:
    from symmoe.errors import PoolError
    from symmoe.routing.profile_files import as_document, read_profiles

    rows = as_document(read_profiles(profiles), {})["experts"]
    if name not in rows:
        raise PoolError(f"{profiles} has no record of {name!r}", hint="name another file, or leave --profiles out")
    return rows[name]
