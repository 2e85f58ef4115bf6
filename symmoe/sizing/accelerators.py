"""Accelerators by name, with the memory that their data sheets give."""

from __future__ import annotations

from dataclasses import dataclass

from symmoe.errors import RequestError


@dataclass(frozen=True, slots=True)
class Accelerator:
    """A kind of accelerator. `memory_gb` is in units of 10⁹ bytes: drivers report this or a little more.

    `batched_tokens` is how many tokens vLLM 0.29 computes at once on it, where nobody says otherwise.
    """

    name: str
    memory_gb: int
    batched_tokens: int = 8192

    @property
    def memory_bytes(self) -> int:
        """Its memory."""
        return self.memory_gb * 10**9


_H = 16384
ACCELERATORS = {
    each.name: each
    for each in (
        Accelerator("L4", 24),
        Accelerator("A10", 24),
        Accelerator("L40S", 48),
        Accelerator("A100-40", 40),
        Accelerator("A100-80", 80),
        Accelerator("H100", 80, _H),
        Accelerator("H200", 141, _H),
        Accelerator("B200", 180, _H),
    )
}
"""By name. NVIDIA's data sheets; `batched_tokens` from vLLM's defaults by memory and name."""
CPU = "cpu"
"""In place of an accelerator: experts run on the CPU."""


def accelerator(name: str) -> Accelerator:
    """The accelerator of that name, in any case; `RequestError` lists the names there are."""
    for known in ACCELERATORS.values():
        if known.name.lower() == name.lower():
            return known
    names = ", ".join((*ACCELERATORS, CPU))
    raise RequestError(f"no accelerator {name!r} is known", code="bad_option", hint=f"there are: {names}")
