"""A prompt and one answer as the token ids that a reward model reads, and how many are read in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from symmoe.errors import CheckpointError
from symmoe.types import Message, Query, Reward

if TYPE_CHECKING:
    import torch


LEAST_READ = 16
"""An answer of which the window leaves fewer tokens than this is not judged."""
_PLACEHOLDER = "\ufdd0"
"""A code point that is never a character: it stands for the answer while the prompt is rendered."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Token ids of a prompt and its answer. `gate` is the index of the token whose state stands for the prompt."""

    ids: tuple[int, ...]
    gate: int
    note: str = ""


class ConversationTokenizer:
    """Renders a query and an answer with a checkpoint's chat template, and keeps them within a window of tokens.

    Of an answer too long for the window, its end is kept, where it concludes, after the prompt. Text in an answer that
    looks like a control token is read as text, so an answer cannot open a turn of its own. For that the answer is
    tokenised separately, which gives the same tokens as the whole with tokenizers that end a token where a line ends,
    such as those of Llama 3 and Qwen. Lone surrogates are read as U+FFFD. `header` is the text between the prompt and
    the answer; the prompt's state is then that of the header's first token, otherwise that of the last token before the
    answer. Raises `CheckpointError` if the template has no such header.
    """

    def __init__(self, tokenizer: Any, window: int, header: str = "") -> None:
        self._tokenizer, self._window = tokenizer, window
        if not tokenizer.chat_template:
            raise CheckpointError(f"{tokenizer.name_or_path}: its tokenizer has no chat template")
        self._header = self._ids(header) if header else []
        self._gate(self._ids(self._render([Message("user", "text")], _PLACEHOLDER).split(_PLACEHOLDER)[0]))

    def encode(self, query: Query, answers: Sequence[str]) -> list[Conversation | Reward]:
        """What is to be read for each answer, or the scoreless reward of one that cannot be judged."""
        from jinja2 import TemplateError

        try:
            probe = self._render(query.messages, _PLACEHOLDER)
            return [self._encode(query, answer, probe) for answer in answers]
        except TemplateError as error:
            return [Reward(None, note=f"the chat template refuses the conversation: {error}") for _ in answers]

    def _encode(self, query: Query, answer: str, probe: str) -> Conversation | Reward:
        if not answer.strip():
            return Reward(None, note="empty answer")
        before, answer, after = _parted(self._render(query.messages, answer), probe)
        prompt, end = self._ids(before), self._ids(after)
        read: list[int] = self._tokenizer(answer, add_special_tokens=False, split_special_tokens=True).input_ids
        room = self._window - len(prompt) - len(end)
        if room < min(len(read), LEAST_READ):
            fixed = len(prompt) + len(end)
            return Reward(None, note=f"the prompt is {fixed} tokens long; the reward model's window is {self._window}")
        note = f"only the last {room} of {len(read)} tokens were read" if room < len(read) else ""
        return Conversation((*prompt, *read[-room:], *end), self._gate(prompt), note)

    def _render(self, messages: Sequence[Message], answer: str) -> str:
        turns = [*messages, Message("assistant", answer)]
        document = [{"role": turn.role, "content": _unicode(turn.content)} for turn in turns]
        rendered: str = self._tokenizer.apply_chat_template(document, tokenize=False)
        return rendered

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False).input_ids
        return ids

    def _gate(self, prompt: Sequence[int]) -> int:
        size = len(self._header)
        if not size:
            return len(prompt) - 1
        for place in range(len(prompt) - size, -1, -1):
            if list(prompt[place : place + size]) == self._header:
                return place
        raise CheckpointError(
            f"{self._tokenizer.name_or_path}: its chat template does not open an answer as the gate was trained on",
            hint=f"the prompt must end with the tokens of {self._tokenizer.decode(self._header)!r}",
        )


def _parted(rendered: str, probe: str) -> tuple[str, str, str]:
    """What stands before the answer, what the template made of the answer, and what stands after it."""
    start = _shared(rendered, probe)
    rest = rendered[start:]
    after = _shared(rest[::-1], probe[start:][::-1])
    return rendered[:start], rest[: len(rest) - after], rest[len(rest) - after :]


def _shared(left: str, right: str) -> int:
    """How many characters two texts begin with in common."""
    length = min(len(left), len(right))
    return next((place for place in range(length) if left[place] != right[place]), length)


def _unicode(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


TOKEN_BUDGET = 8192
"""Tokens of one forward pass, padding included."""


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of `lengths` in batches of similar length, longest first.

    A batch, padded to its longest, holds at most `budget` tokens; a longer conversation is a batch of its own.
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
    encoded = [tokens.encode(query, answers) for query, answers in zip(queries, candidates, strict=True)]
    distinct = list({c.ids: c for row in encoded for c in row if isinstance(c, Conversation)}.values())
    rewards: dict[tuple[int, ...], Reward] = {}
    for batch in batches([len(conversation.ids) for conversation in distinct], budget):
        conversations = [distinct[place] for place in batch]
        rewards |= zip((c.ids for c in conversations), read(conversations), strict=True)
    return [[_reward(entry, rewards) for entry in row] for row in encoded]


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
