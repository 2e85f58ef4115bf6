"""Seeded, verifiable questions: families of them, disjoint splits, and suites on disk."""
