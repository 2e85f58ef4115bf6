"""Running the cells one by one, so that one that fails costs only itself."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.gpu_loading.cells import Cell
from benchmarks.gpu_loading.source import Bench
from benchmarks.gpu_loading.trial import UnavailableError, WrongBitsError, summary, times

Row = dict[str, Any]


def rows(cells: Sequence[Cell], bench: Bench, rounds: int, deadline: float) -> Iterable[Row]:
    """Measure every cell, risky ones last. After `deadline` (of `time.monotonic`) the rest is skipped."""
    unusable = ""
    for cell in sorted(cells, key=lambda cell: cell.risky):
        row: Row = {"cell": cell.name, "title": cell.title, "baseline": cell.baseline}
        if unusable or time.monotonic() > deadline:
            yield row | {"status": "skipped", "reason": unusable or "the time budget was spent"}
            continue
        yield row | measured(cell, bench, rounds)
        unusable = _clean_up(bench, cell)


def measured(cell: Cell, bench: Bench, rounds: int) -> Row:
    """What a cell gave: its times, why it was skipped, or how it failed."""
    try:
        trial = cell.make(bench)
        seconds = times(trial, bench.place, rounds)
        return {"status": "ok", "bit_exact": True} | summary(seconds, trial.nbytes) | trial.more()
    except UnavailableError as reason:
        return {"status": "skipped", "reason": str(reason)}
    except WrongBitsError as error:
        return {"status": "failed", "bit_exact": False, "reason": str(error)}
    except Exception as error:
        return {"status": "failed", "reason": f"{type(error).__name__}: {error}"[:500]}


def compared(found: Sequence[Row], order: Sequence[str], peak_gb_per_s: float | None) -> list[Row]:
    """The rows in the order of the report, with speed-ups over their baselines and efficiencies against the peak.

    Either is None where what it needs was not measured.
    """
    medians = {row["cell"]: row["median_s"] for row in found if row["status"] == "ok"}
    by_name = {row["cell"]: row for row in found}
    return [_compared(by_name[name], medians, peak_gb_per_s) for name in order if name in by_name]


def _compared(row: Row, medians: dict[str, float], peak_gb_per_s: float | None) -> Row:
    if row["status"] != "ok":
        return row
    before, median = medians.get(row["baseline"]), row["median_s"]
    return row | {
        "speedup": round(before / median, 3) if before and median else None,
        "efficiency": round(row["bytes"] / median / 1e9 / peak_gb_per_s, 3) if peak_gb_per_s and median else None,
    }


def _clean_up(bench: Bench, cell: Cell) -> str:
    """Free what the cell held; why the device is of no use any more, if it is so."""
    gc.collect()
    return attempted(bench.place.synchronize, f"the device was unusable after cell {cell.name}") or attempted(
        bench.place.release, f"memory was not freed after cell {cell.name}"
    )


def attempted(step: Callable[[], object], otherwise: str) -> str:
    """Empty if `step` went well, else `otherwise` and the reason."""
    try:
        step()
    except Exception as error:
        return f"{otherwise}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
    return ""
