"""`symmoe expert list|drain|quarantine|restore|remove`: the experts of a running service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from . import options
from .service import DEFAULT_URL, Key, request

Name = Annotated[str, typer.Argument(metavar="NAME", help="The expert's name.")]
Service = Annotated[str, typer.Option("--service", metavar="URL", help="Where the service is.")]
Why = Annotated[str, typer.Option("--why", help="For who looks later.")]
_PATH = "/v1/admin/experts"


def list_experts(service: Service = DEFAULT_URL, key: Key = None, json: options.Json = False) -> None:
    """List the experts of a running service and what they are at."""
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
    """Let an expert of a running service finish what it was given, and give it nothing new."""
    show_change(_act_on(service, key, name, "drain", why), json)


def quarantine(
    name: Name, service: Service = DEFAULT_URL, key: Key = None, why: Why = "", json: options.Json = False
) -> None:
    """Take an expert of a running service out at once: what it was given goes to others, or is refused."""
    show_change(_act_on(service, key, name, "quarantine", why), json)


def restore(name: Name, service: Service = DEFAULT_URL, key: Key = None, json: options.Json = False) -> None:
    """Bring an expert of a running service back that was drained, quarantined or, from the pool file, removed."""
    show_change(_act_on(service, key, name, "restore", ""), json)


def remove(name: Name, service: Service = DEFAULT_URL, key: Key = None, json: options.Json = False) -> None:
    """Remove an expert from a running service: it finishes what it was given, and is no model any more."""
    from .render import show, show_json

    done = request("DELETE", service, f"{_PATH}/{quote(name, safe='')}", key)
    show_json(done) if json else show(f"{name} is removed")


def join(
    service: str | None,
    key: str | None,
    name: str,
    model: str,
    adapter: Path | None,
    description: str,
    profiles: Path | None,
) -> dict[str, Any]:
    """Have an expert join a running service, with its record where `profiles` hold one. Paths are the service's."""
    from symmoe.errors import ConfigError

    if service is None:
        raise ConfigError("nothing says where the expert goes", hint="give --out POOL.yaml, --service URL, or both")
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
    """What became of an expert."""
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
    """A directory that is here, by its whole path; what is not is the service's to find."""
    path = Path(source)
    return str(path.expanduser().resolve()) if source.startswith(beginnings) and path.is_dir() else source


def _record(profiles: Path, name: str) -> Any:
    from symmoe.errors import PoolError
    from symmoe.routing.profile_files import as_document, read_profiles

    rows = as_document(read_profiles(profiles), {})["experts"]
    if name not in rows:
        raise PoolError(f"{profiles} has no record of {name!r}", hint="name another file, or leave --profiles out")
    return rows[name]
