"""Profiles in the store: shared by every machine that uses it, with the latest versions of each kept."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection
from typing import Any

from symmoe.errors import PoolError
from symmoe.limits import PROFILE_VERSIONS
from symmoe.protocols import Store
from symmoe.routing.profile_files import parse_profiles
from symmoe.types import Profiles

STORE = "store:"


def push_profiles(store: Store, name: str, document: dict[str, Any]) -> str:
    """Store a profile document as the newest version of `name`, and return the version's key.

    Pushing a document equal to the newest version changes nothing. The last `PROFILE_VERSIONS` versions are kept.
    """
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:12]
    known = sorted(store.rows(_table(name)))
    if known and known[-1].endswith(digest):
        return known[-1]
    version = f"{time.time_ns():020d}-{digest}"
    store.put(_table(name), {version: document})
    store.remove(_table(name), sorted([*known, version])[:-PROFILE_VERSIONS])
    return version


def pull_document(store: Store, name: str) -> dict[str, Any]:
    """The newest version of `name` as a document. Raises `PoolError` if there is none."""
    rows = store.rows(_table(name))
    if not rows:
        raise PoolError(
            f"the store has no profiles {name!r}", hint=f"put them there: symmoe profile push FILE --name {name}"
        )
    return rows[max(rows)]


def pull_profiles(store: Store, name: str, pool: Collection[str] | None = None) -> Profiles:
    """The newest version of `name`, checked in the same way as a profile file."""
    return parse_profiles(pull_document(store, name), f"{STORE}{name}", pool)


def _table(name: str) -> str:
    return f"profiles:{name}"
