"""`symmoe doctor`: is everything in place?"""

from __future__ import annotations

import typer

from . import options


def doctor(json: options.Json = False) -> None:
    """Say what is installed, what would be slow here, and what to do; exit code 1 if something is missing."""
    from symmoe.doctor import examine
    from symmoe.types import to_json

    from .render import coloured, show, show_json, table

    findings = examine()
    missing = any(finding.level == "missing" for finding in findings)
    if json:
        show_json({"ok": not missing, "findings": [to_json(finding) for finding in findings]})
    else:
        colours = {"good": "green", "slow": "yellow", "missing": "red"}
        rows = [(f.what, coloured(f.level, colours[f.level]), f.found, f.advice) for f in findings]
        show(table("Doctor", ("what", "state", "found", "advice"), rows))
    if missing:
        raise typer.Exit(1)
