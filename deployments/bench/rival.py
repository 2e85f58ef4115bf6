"""The same expert alone on `ray.serve.llm`, as a process: `python -m symmoe.deployments.bench.rival '{...}'`."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from typing import Any

from symmoe.errors import JobError

from ..door import CALLBACK
from ..session import ray_session

_ROOM = 16
"""CPUs that Ray is told of: every part of `ray.serve.llm` claims one, which costs nothing."""


def serve_alone(name: str, model: str, port: int, engine: dict[str, Any], accelerators: int) -> None:
    """Serve the checkpoint in the directory `model` as `name` until SIGTERM; says `ready` on stdout once it answers.

    `engine` are vLLM's own arguments, `accelerators` how many it runs on, 0 for CPUs alone.
    """
    os.environ.update(dict.fromkeys(CALLBACK, ""))  # alone is also without what stands before our own proxy
    with ray_session(_ROOM):
        for number in (signal.SIGINT, signal.SIGTERM):  # after Ray has set its own; it ends while it starts, too
            signal.signal(number, lambda *_: sys.exit())
        app = _application(name, model, engine, accelerators)
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        quiet = {"log_level": "WARNING", "enable_access_log": False}
        serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config=quiet)
        serve.run(app, name="rival", route_prefix="/", logging_config=quiet)
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        finally:
            serve.shutdown()


def _application(name: str, model: str, engine: dict[str, Any], accelerators: int) -> Any:
    try:
        from ray.serve.llm import LLMConfig, build_openai_app
    except ImportError as error:
        raise JobError(
            f"ray.serve.llm cannot be used: {str(error).splitlines()[0]}",
            hint="install what it needs, 'symmoe[bench]', or compare with --against vllm",
        ) from error
    bundle = {"CPU": 1, **({"GPU": 1} if accelerators else {})}
    config = LLMConfig(
        model_loading_config={"model_id": name, "model_source": model},
        deployment_config={"num_replicas": 1, "max_ongoing_requests": 1024},
        engine_kwargs=engine,
        placement_group_config={"bundles": [bundle] * max(accelerators, 1)},
        log_engine_metrics=False,
    )
    return build_openai_app({"llm_configs": [config]})


if __name__ == "__main__":
    serve_alone(**json.loads(sys.argv[1]))
