"""symmoe: skill-based mixture of LLM experts. See docs/architecture.md for the way of a question."""

__version__ = "0.1.0"
