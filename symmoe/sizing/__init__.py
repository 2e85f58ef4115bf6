"""The memory that a pool's experts need, from their configs alone: nothing is downloaded and no model loaded."""
