"""Batch jobs: lines in, lines out, every id answered exactly once."""
