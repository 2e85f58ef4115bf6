"""The authors' way, as a process: a new vLLM engine for every expert of a plan (Symbolic-MoE §3.3 and its public code).

Reads a request on standard input, writes the seconds and texts as one line on standard output.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from symmoe.build import Assembly
from symmoe.config import Pool
from symmoe.evaluation.loading.batch import Workload, steps_of
from symmoe.types import Plan


def run(pool: Pool, steps: Plan, merged: Mapping[str, str]) -> dict[str, Any]:
    """Run a plan with an engine for every step. `seconds` go from before vLLM is imported to the last text."""
    engine = Assembly(pool).engine
    texts: dict[str, str] = {}
    began = time.perf_counter()
    for step in steps.steps:
        engine.start(merged[step.expert], {})
        for call, generation in engine.generate(step.calls):
            texts |= {f"{one.query_id}/{one.expert}": generation.text for one in call.serves}
    seconds = time.perf_counter() - began
    engine.close()
    return {"seconds": seconds, "texts": texts}


def main() -> None:
    """Answer the request on standard input."""
    request = json.load(sys.stdin)
    pool = Pool.model_validate(request["pool"] | {"root": Path(request["root"])})
    answer = run(pool, steps_of(pool, Workload(*request["work"])), request["merged"])
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
