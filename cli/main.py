"""The `symmoe` command."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from . import (
    aggregator,
    ask,
    batch,
    bench,
    demo,
    doctor,
    expert,
    k8s,
    key,
    plan,
    pool,
    profile,
    records,
    replay,
    reward,
    route,
    serve,
    skill,
    store,
    top,
    usage,
)

app = typer.Typer(
    name="symmoe",
    help="Routes each question to the few LLM experts whose record shows the skills it needs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("ask")(ask.ask)
app.command("route")(route.route)
app.command("serve")(serve.serve)
app.command("top")(top.top)
app.command("usage")(usage.usage)
app.command("replay")(replay.replay)
app.add_typer(batch.app, name="batch")
app.add_typer(plan.app, name="plan")
app.add_typer(pool.app, name="pool")
app.add_typer(expert.app, name="expert")
app.add_typer(profile.app, name="profile")
app.add_typer(records.app, name="records")
app.add_typer(skill.app, name="skill")
app.add_typer(aggregator.app, name="aggregator")
app.add_typer(reward.app, name="reward")
app.add_typer(key.app, name="key")
app.add_typer(store.app, name="store")
app.add_typer(k8s.app, name="k8s")
app.add_typer(bench.app, name="bench")
app.command("doctor")(doctor.doctor)


@app.callback()
def _root() -> None:
    """Answer questions with a pool of LLM experts."""


def main() -> None:
    """Run the command line and exit.

    Exit codes: 0 done, 1 failed, 2 bad input, 3 partly done, 4 stopped early or rows not whole, 130 interrupted, 143
    terminated.
    """
    code = run()
    if "vllm" in sys.modules:
        _exit_without_teardown(code)
    sys.exit(code)


def run() -> int:
    """Run the command in `sys.argv` and return its exit code. Raises errors that are faults of the program."""
    from symmoe.errors import SymmoeError

    from .render import show_error, tell

    received: list[int] = []
    try:
        with _ended_by_sigterm() as received:
            code = app(standalone_mode=False)
    except SymmoeError as error:
        show_error(error, "--json" in sys.argv)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        tell("terminated" if received else "interrupted")
        return 143 if received else 130
    except OSError as error:
        if error.filename is None:
            raise
        show_error(SymmoeError(f"{error.filename}: {error.strerror}"), "--json" in sys.argv)
        return 1
    except Exception as error:
        if not hasattr(error, "exit_code") or not hasattr(error, "show"):
            raise
        error.show()
        return int(error.exit_code)
    if received and code == 130:  # typer has caught the KeyboardInterrupt
        return 143
    return code if isinstance(code, int) else 0


@contextmanager
def _ended_by_sigterm() -> Iterator[list[int]]:
    """Interrupt the command at SIGTERM as at Ctrl-C, unless it sets its own handler; the list then holds the signal."""
    received: list[int] = []

    def terminate(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield received
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit_without_teardown(code: int) -> None:
    """Exit without tearing down native libraries, which takes a second and prints meaningless leak reports."""
    import atexit

    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
