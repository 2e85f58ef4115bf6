"""ArmoRM as its paper and model card describe it, written down independently and plainly: one conversation at a time,
in float64, without batches, padding, templates or checkpoints. It is what the library's model is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import LlamaModel

from symmoe.types import Query
from tests.scoring.tiny import Tensors, llama_config, tokenizer


@dataclass
class Judged:
    rewards: list[float]
    gating: list[float]
    score: float


class ReferenceArmoRM:
    def __init__(self, tensors: Tensors, temperature: float = 10.0) -> None:
        self.tensors = {name: tensor.double() for name, tensor in tensors.items()}
        self.temperature = temperature
        self.words = tokenizer()
        self.backbone = LlamaModel(llama_config()).double().eval()
        backbone = {n.removeprefix("model."): t for n, t in self.tensors.items() if n.startswith("model.")}
        self.backbone.load_state_dict(backbone, strict=True)

    def judge(self, query: Query, answer: str) -> Judged:
        text = "<|begin_of_text|>"
        for message in query.messages:
            text += f"<|start_header_id|>{message.role}<|end_header_id|>\n\n{message.content.strip()}<|eot_id|>"
        prompt = text.removesuffix("<|eot_id|>")  # the end of the last turn comes after this
        text += f"<|start_header_id|>assistant<|end_header_id|>\n\n{answer.strip()}<|eot_id|>"
        ids = self.words(text, add_special_tokens=False).input_ids
        end_of_turn = len(self.words(prompt, add_special_tokens=False).input_ids)
        with torch.no_grad():
            states = self.backbone(torch.tensor([ids])).last_hidden_state[0]
            return self.heads(states[end_of_turn], states[-1])

    def heads(self, prompt: torch.Tensor, answer: torch.Tensor) -> Judged:
        objectives = range(len(self.tensors["regression_layer.weight"]))
        rewards = [torch.dot(self.tensors["regression_layer.weight"][i], answer).item() for i in objectives]
        gating = self.gate(prompt)
        transform = self.tensors["reward_transform_matrix"]
        adjusted = [sum(rewards[i] * transform[i, j].item() for i in objectives) for j in objectives]
        return Judged(rewards, gating, sum(g * r for g, r in zip(gating, adjusted, strict=True)))

    def gate(self, prompt: torch.Tensor) -> list[float]:
        signal = prompt
        for layer in range(4):
            if layer > 0:
                signal = torch.clamp(signal, min=0)
            signal = (
                self.tensors[f"gating.layers.{layer}.weight"] @ signal + self.tensors[f"gating.layers.{layer}.bias"]
            )
        exponents = [torch.exp(number / self.temperature).item() for number in signal]
        scale = self.tensors["gating.logit_scale"].item()
        return [scale * number / sum(exponents) for number in exponents]


def judged(tensors: Tensors, conversations: Sequence[tuple[Query, Sequence[str]]]) -> list[list[Judged]]:
    reference = ReferenceArmoRM(tensors)
    return [[reference.judge(query, answer) for answer in answers] for query, answers in conversations]
