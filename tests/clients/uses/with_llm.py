"""The `llm` command."""

import os
import subprocess
from pathlib import Path

folder = Path("llm")
folder.mkdir()
(folder / "extra-openai-models.yaml").write_text(
    f"""
- model_id: symmoe
  model_name: symmoe/auto
  api_base: {os.environ["BASE"]}/v1
  supports_tools: true
  supports_schema: true
"""
)


def llm(*words: str) -> str:
    environment = {**os.environ, "LLM_USER_PATH": str(folder)}
    return subprocess.run(["llm", *words], env=environment, check=True, capture_output=True, text=True).stdout.strip()


assert llm("-m", "symmoe", "sums of 1") == "adder: sums of 1"
assert llm("-m", "symmoe", "--no-stream", "-s", "Be brief.", "sums of 1") == "adder: sums of 1"
assert llm("-c", "sums of 2") == "adder: sums of 2"
function = "def weather(city: str) -> str:\n    'The weather in a city.'\n    return 'sunny in ' + city"
assert llm("-m", "symmoe", "--functions", function, "How is the weather in Lisbon?") == "It is sunny in Lisbon."
assert llm("-m", "symmoe", "--schema", "name, people int", "A city?") == '{"name": "Lisbon", "people": 17}'
