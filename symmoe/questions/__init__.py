"""Seeded, verifiable questions: families, disjoint splits, and suites on disk."""
