"""The language model evaluation harness, by chat and by completions, on ten questions of its user's own."""

import json
import os
import subprocess
import sys
from pathlib import Path

rows = [{"question": f"sums of {n}", "answer": f"adder: sums of {n}"} for n in range(10)]
Path("ten.jsonl").write_text("\n".join(map(json.dumps, rows)))
Path("ten.yaml").write_text(
    f"""
task: ten
dataset_path: json
dataset_kwargs: {{data_files: {{test: {Path("ten.jsonl").resolve()}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 16}}
metric_list: [{{metric: exact_match}}]
"""
)
base = os.environ["BASE"]
ways = {
    "local-chat-completions": (f"{base}/v1/chat/completions", ["--apply_chat_template"]),
    "local-completions": (f"{base}/v1/completions", ["--batch_size", "4"]),
}
for kind, (url, options) in ways.items():
    about = f"model=symmoe/auto,base_url={url},num_concurrent=2,tokenizer_backend=None,tokenized_requests=False"
    words = ["--model", kind, "--model_args", about, "--tasks", "./ten.yaml", "--output_path", kind, *options]
    subprocess.run([sys.executable, "-m", "lm_eval", "run", *words], check=True, stdout=sys.stderr)
    (found,) = Path(kind).rglob("results_*.json")
    assert json.loads(found.read_text())["results"]["ten"]["exact_match,none"] == 1.0, kind
