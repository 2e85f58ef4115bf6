"""The headline comparison: ways of answering with a pool, on the same questions, at the same sampling settings."""
