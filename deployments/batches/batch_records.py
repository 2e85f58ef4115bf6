"""A batch as the store has it: facts that are only ever added, from which its state follows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Outcome = Literal["completed", "failed", "expired", "cancelled"]
State = Literal["validating", "in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled"]
ENDPOINT, WINDOW = "/v1/chat/completions", "24h"
_TIMES = (
    "in_progress_at", "finalizing_at", "completed_at", "failed_at", "expired_at", "cancelling_at", "cancelled_at",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class BatchRecord:
    """A batch. `output` and `error` are ids that its files will have; times are whole seconds since the epoch.

    Its files are kept for `keep` seconds once they are there, None for always.

    `facts` are what became of it: times by name, `total`, `answered` and `failed` lines, the `outcome` once that is
    decided, `ending` once its files are there, `ended` once that is safe, until when it is listed then
    (`listed_until`), and which of the two there are (`has_output`, `has_error`).
    """

    id: str
    owner: str
    input: str
    output: str
    error: str
    created: int
    expires: int
    metadata: Mapping[str, str] | None = None
    keep: int | None = None
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def state(self) -> State:
        """In OpenAI's words."""
        ended: Any = self.facts.get("ended")
        if ended:
            return ended  # type: ignore[no-any-return]
        if "cancelling_at" in self.facts:
            return "cancelling"
        if "finalizing_at" in self.facts:
            return "finalizing"
        return "in_progress" if "in_progress_at" in self.facts else "validating"

    @property
    def ended(self) -> bool:
        """Whether nothing more becomes of it."""
        return "ended" in self.facts

    @property
    def document(self) -> dict[str, Any]:
        """The batch in OpenAI's shape."""
        facts = self.facts
        counts = {"total": "total", "completed": "answered", "failed": "failed"}
        return {
            "id": self.id,
            "object": "batch",
            "endpoint": ENDPOINT,
            "errors": json.loads(facts["errors"]) if "errors" in facts else None,
            "input_file_id": self.input,
            "completion_window": WINDOW,
            "status": self.state,
            "output_file_id": self.output if facts.get("has_output") == "1" and self.ended else None,
            "error_file_id": self.error if facts.get("has_error") == "1" and self.ended else None,
            "created_at": self.created,
            "expires_at": self.expires,
            **{name: int(facts[name]) if name in facts else None for name in _TIMES},
            "request_counts": {shown: int(facts.get(name, 0)) for shown, name in counts.items()},
            "metadata": None if self.metadata is None else dict(self.metadata),
            **({"symmoe": {"listed_until": int(facts["listed_until"])}} if "listed_until" in facts else {}),
        }

    @property
    def fixed(self) -> str:
        """What never changes of it, as JSON."""
        names = ("id", "owner", "input", "output", "error", "created", "expires", "keep")
        metadata = None if self.metadata is None else dict(self.metadata)
        return json.dumps({**{name: getattr(self, name) for name in names}, "metadata": metadata}, ensure_ascii=False)

    @classmethod
    def read(cls, fields: Mapping[bytes, bytes]) -> BatchRecord | None:
        """The batch out of its hash in the store; None if there is none."""
        facts = {name.decode(): value.decode() for name, value in fields.items()}
        fixed = facts.pop("fixed", None)
        return None if fixed is None else cls(**json.loads(fixed), facts=facts)
