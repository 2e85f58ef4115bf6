"""Measuring: scores, every expert on every question, baselines, the demo's report."""
