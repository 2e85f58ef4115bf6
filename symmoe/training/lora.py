"""Trains a LoRA expert from a recipe, which determines the result: resumable, seeded, on CPU or GPU.

The loss is on the answer only, and the vocabulary projection runs on answer positions only, which saves a third of the
cost on two CPU cores. Base and adapter compute in bf16; the optimiser keeps the adapter in fp32.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from symmoe.config import state_dir
from symmoe.errors import RecipeError
from symmoe.questions.families import FAMILIES
from symmoe.questions.suites import draw
from symmoe.quiet import output_to
from symmoe.types import Question
from symmoe.yaml_text import load_yaml

if TYPE_CHECKING:
    import torch

Progress = Callable[[int, float], None]
CHECKPOINT_EVERY = 50
_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Recipe(BaseModel):
    """One expert's training recipe, read from YAML.

    `tasks` are family names; the rest are the usual LoRA and optimiser settings. Layers below `first_layer` are left as
    they are: their backward pass is skipped and the adapter is smaller.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[a-z][a-z0-9-]*$")
    description: str
    tasks: list[str] = Field(min_length=1)
    seed: int = Field(ge=0, lt=1_000_000)
    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0, default=16)
    learning_rate: float = Field(gt=0, default=2e-3)
    warmup_steps: int = Field(ge=0, default=20)
    rank: int = Field(gt=0, default=8)
    alpha: int = Field(gt=0, default=16)
    first_layer: int = Field(ge=0, default=0)

    @field_validator("tasks")
    @classmethod
    def _known(cls, tasks: list[str]) -> list[str]:
        unknown = sorted(set(tasks) - set(FAMILIES))
        if unknown:
            raise ValueError(f"unknown tasks {unknown}; known are {sorted(FAMILIES)}")
        return tasks


def read_recipe(path: Path) -> Recipe:
    """Read and validate a recipe file. Raises `RecipeError`, naming the file and the field at fault."""
    try:
        return Recipe.model_validate(load_yaml(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML ({error})") from error
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())
        raise RecipeError(f"{path}: {problems}") from error


def training_questions(recipe: Recipe) -> list[Question]:
    """The recipe's training questions in training order: as many as its steps use.

    A family with fewer distinct questions is repeated, reshuffled, as in epochs.
    """
    wanted = recipe.steps * recipe.batch_size
    share = -(-wanted // len(recipe.tasks))
    rng = Random(recipe.seed)
    mixed: list[Question] = []
    for task in recipe.tasks:
        distinct = list(islice(draw(task, "train", recipe.seed), share))
        while len(distinct) < share:
            distinct += rng.sample(distinct, min(len(distinct), share - len(distinct)))
        mixed += distinct
    rng.shuffle(mixed)
    return mixed[:wanted]


def data_hash(questions: list[Question]) -> str:
    """A sha256 over questions and answers in order: equal hashes mean equal training data."""
    digest = hashlib.sha256()
    for question in questions:
        digest.update(json.dumps([question.question, question.answer]).encode())
    return digest.hexdigest()


def train_adapter(
    recipe: Recipe, base: Path, out: Path, source: str, progress: Progress = lambda step, loss: None
) -> dict[str, Any]:
    """Train `recipe` on the checkpoint `base` and write the adapter (PEFT layout, bf16) and its card into `out`.

    `source` is the base's name in pool files, which goes into the adapter's files instead of this machine's path. An
    interrupted run continues from its last checkpoint when started again with the same recipe. Returns the card.
    `progress(step, loss)` is called after every optimiser step.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(recipe.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with output_to(state_dir() / "train.log"):
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).to(device)
        model = _with_lora(model, recipe)
    adapter = {name: p for name, p in model.named_parameters() if p.requires_grad}
    masters = {name: p.detach().float().clone().requires_grad_() for name, p in adapter.items()}
    optimiser = torch.optim.AdamW(masters.values(), lr=recipe.learning_rate, weight_decay=0.0)

    questions = training_questions(recipe)
    card = {"recipe": recipe.model_dump(), "data_sha256": data_hash(questions), "questions": len(questions)}
    checkpoint = out / "checkpoint.pt"
    start = _restore(checkpoint, card, masters, optimiser)
    _copy_into(adapter, masters)
    decoder, head = model.base_model.model.model, model.base_model.model.lm_head
    examples = [_encode(tokenizer, question) for question in questions]
    for step, batch in _batches(examples, recipe, start):
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * _schedule(step, recipe)
        loss = _loss(decoder, head, batch, tokenizer.pad_token_id, device)
        torch.autograd.backward(loss)
        for name, parameter in adapter.items():
            masters[name].grad = parameter.grad.float() if parameter.grad is not None else None
            parameter.grad = None
        torch.nn.utils.clip_grad_norm_(masters.values(), 1.0)
        optimiser.step()
        _copy_into(adapter, masters)
        progress(step + 1, loss.item())
        if (step + 1) % CHECKPOINT_EVERY == 0:
            _save(checkpoint, card, step + 1, masters, optimiser)

    card = _write(model, card, out, source)
    checkpoint.unlink(missing_ok=True)
    return card


def _write(model: Any, card: dict[str, Any], out: Path, source: str) -> dict[str, Any]:
    """Write adapter, config and card. The card goes last: a directory with a card is a finished one."""
    model.save_pretrained(out)
    (out / "README.md").unlink(missing_ok=True)  # PEFT's template, which says nothing
    config_path = out / "adapter_config.json"
    config = json.loads(config_path.read_text(encoding="utf-8")) | {"base_model_name_or_path": source}
    config_path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    weights = (out / "adapter_model.safetensors").read_bytes()
    card = card | {"base": source, "sha256": hashlib.sha256(weights).hexdigest(), "bytes": len(weights)}
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    return card


def _with_lora(model: Any, recipe: Recipe) -> Any:
    from peft import LoraConfig, get_peft_model

    layers = list(range(recipe.first_layer, model.config.num_hidden_layers))
    config = LoraConfig(
        r=recipe.rank, lora_alpha=recipe.alpha, target_modules=list(_PROJECTIONS), layers_to_transform=layers
    )
    return get_peft_model(model, config, autocast_adapter_dtype=False)


def _encode(tokenizer: Any, question: Question) -> tuple[list[int], list[int]]:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": question.question}], add_generation_prompt=True, tokenize=False
    )
    return (
        tokenizer(prompt, add_special_tokens=False).input_ids,
        tokenizer(question.answer + tokenizer.eos_token, add_special_tokens=False).input_ids,
    )


def _batches(examples: list[tuple[list[int], list[int]]], recipe: Recipe, start: int) -> Iterator[tuple[int, Any]]:
    for step in range(start, recipe.steps):
        yield step, examples[step * recipe.batch_size : (step + 1) * recipe.batch_size]


def _schedule(step: int, recipe: Recipe) -> float:
    if step < recipe.warmup_steps:
        return (step + 1) / recipe.warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)))


def _loss(decoder: Any, head: Any, batch: list[tuple[list[int], list[int]]], pad: int, device: str) -> torch.Tensor:
    import torch

    width = max(len(prompt) + len(answer) for prompt, answer in batch)
    ids = torch.full((len(batch), width), pad)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    target = torch.full((len(batch), width), -100)
    for row, (prompt, answer) in enumerate(batch):
        length = len(prompt) + len(answer)
        ids[row, :length] = torch.tensor(prompt + answer)
        mask[row, :length] = 1
        target[row, len(prompt) - 1 : length - 1] = torch.tensor(answer)
    ids, mask, target = ids.to(device), mask.to(device), target.to(device)
    hidden = decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    answered = target != -100
    return torch.nn.functional.cross_entropy(head(hidden[answered]).float(), target[answered])


def _copy_into(adapter: dict[str, Any], masters: dict[str, Any]) -> None:
    import torch

    with torch.no_grad():
        for name, parameter in adapter.items():
            parameter.copy_(masters[name])


def _save(path: Path, card: dict[str, Any], step: int, masters: dict[str, Any], optimiser: Any) -> None:
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"card": card, "step": step, "masters": dict(masters), "optimiser": optimiser.state_dict()}
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _restore(path: Path, card: dict[str, Any], masters: dict[str, Any], optimiser: Any) -> int:
    import torch

    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True)  # noqa: TID251 - written here a moment ago, and read as plain tensors
    if state["card"] != card:
        return 0
    with torch.no_grad():
        for name, master in masters.items():
            master.copy_(state["masters"][name])
    optimiser.load_state_dict(state["optimiser"])
    return int(state["step"])
