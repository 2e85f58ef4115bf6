"""`vllm bench serve`, by completions and by chat."""

import json
import os
import subprocess
import sys
from pathlib import Path

rows = [{"prompt": f"sums of {n}", "output_tokens": 8} for n in range(8)]
Path("eight.jsonl").write_text("\n".join(map(json.dumps, rows)))
for backend, endpoint in (("openai", "/v1/completions"), ("openai-chat", "/v1/chat/completions")):
    words = ["--backend", backend, "--endpoint", endpoint, "--base-url", os.environ["BASE"], "--model", "symmoe/auto"]
    words += [
        "--dataset-name",
        "custom",
        "--dataset-path",
        "eight.jsonl",
        "--num-prompts",
        "8",
        "--skip-tokenizer-init",
    ]
    words += ["--save-result", "--result-filename", f"{backend}.json"]
    subprocess.run([sys.executable, "-m", "vllm.entrypoints.cli.main", "bench", "serve", *words], check=True)
    found = json.loads(Path(f"{backend}.json").read_text())
    assert (found["completed"], found["failed"]) == (8, 0), found
