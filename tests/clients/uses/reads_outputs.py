"""Outputs of a batch, the folder of which is the working directory, as pandas and `datasets` read them."""

import json
from pathlib import Path

import pandas as pd
from datasets import load_dataset

folder = Path("outputs")
frames = {
    "jsonl": pd.read_json(folder / "out.jsonl", lines=True),
    "csv": pd.read_csv(folder / "out.csv"),
    "parquet": pd.read_parquet(folder / "out.parquet"),
}
files = {"jsonl": "out.jsonl", "csv": "out.csv", "parquet": "out.parquet/*.parquet"}
for kind, frame in frames.items():
    builder = "json" if kind == "jsonl" else kind
    loaded = load_dataset(builder, data_files=str(folder / files[kind]), split="train", cache_dir="cache")
    answers = list(frames["jsonl"]["answer"])
    assert list(frame["answer"]) == answers == list(loaded["answer"]), kind
    assert list(frame["symmoe_id"].astype(str)) == [str(ident) for ident in loaded["symmoe_id"]], kind
    assert list(frame["symmoe_completion_tokens"]) == list(loaded["symmoe_completion_tokens"]), kind
    options = [each if isinstance(each, dict) else json.loads(each) for each in frame["choices"]]
    assert options == list(frames["jsonl"]["choices"]), kind
