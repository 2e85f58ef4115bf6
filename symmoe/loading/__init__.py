"""Weights: where they come from, whether they can be trusted, and how they get into the engine."""
