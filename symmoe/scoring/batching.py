"""Many conversations of many lengths, read a few at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from symmoe.scoring.conversation import Conversation, ConversationTokenizer
from symmoe.types import Query, Reward

if TYPE_CHECKING:
    import torch

TOKEN_BUDGET = 8192
"""Tokens of one forward pass, padding included."""


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of `lengths` in batches of like length, longest first.

    A batch, padded to its longest, holds `budget` tokens at most; one longer than that stands alone.
    """
    made: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if made and lengths[made[-1][0]] * (len(made[-1]) + 1) <= budget:
            made[-1].append(place)
        else:
            made.append([place])
    return made


def read_in_batches(
    tokens: ConversationTokenizer,
    queries: Sequence[Query],
    candidates: Sequence[Sequence[str]],
    read: Callable[[Sequence[Conversation]], list[Reward]],
    budget: int,
) -> list[list[Reward]]:
    """A reward for every candidate, in order; `read` is given one batch at a time, and each conversation once."""
    asked = [tokens.encode(query, answers) for query, answers in zip(queries, candidates, strict=True)]
    distinct = list({c.ids: c for row in asked for c in row if isinstance(c, Conversation)}.values())
    rewards: dict[tuple[int, ...], Reward] = {}
    for batch in batches([len(conversation.ids) for conversation in distinct], budget):
        conversations = [distinct[place] for place in batch]
        rewards |= zip((c.ids for c in conversations), read(conversations), strict=True)
    return [[_reward(entry, rewards) for entry in row] for row in asked]


def _reward(entry: Conversation | Reward, rewards: dict[tuple[int, ...], Reward]) -> Reward:
    if isinstance(entry, Reward):
        return entry
    reward = rewards[entry.ids]
    return replace(reward, note="; ".join(filter(None, (entry.note, reward.note))))


def padded(conversations: Sequence[Conversation], pad: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask, `[n, longest]`; padding is on the right, where no earlier token attends to it."""
    import torch

    longest = max(len(conversation.ids) for conversation in conversations)
    ids = torch.full((len(conversations), longest), pad, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, conversation in enumerate(conversations):
        ids[row, : len(conversation.ids)] = torch.tensor(conversation.ids)
        mask[row, : len(conversation.ids)] = 1
    return ids.to(device), mask.to(device)
