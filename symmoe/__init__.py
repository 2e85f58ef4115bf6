"""symmoe: skill-based mixture of LLM experts. See docs/architecture.md for the way of a question.

>>> with symmoe.open_pool("starter") as pool:
...     trace, = pool.answer(["Write the number 444 as a Roman numeral."])
>>> trace.answer.text, trace.recruited
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from symmoe.asking import OpenPool, open_pool

__version__ = "0.1.0"
__all__ = ["OpenPool", "open_pool"]


def __getattr__(name: str) -> Any:
    """Import `open_pool` and `OpenPool` on first use, so that `import symmoe` alone costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'symmoe' has no attribute {name!r}")
    from symmoe import asking

    return getattr(asking, name)
