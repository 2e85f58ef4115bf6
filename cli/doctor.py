"""`symmoe doctor`: check the installation."""

from __future__ import annotations

import typer

from . import options


def doctor(json: options.Json = False) -> None:
    """Show what is installed, what will be slow on this machine, and what to do. Exit code 1: something is missing."""
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
