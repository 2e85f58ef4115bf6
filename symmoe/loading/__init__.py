"""Weights: where they come from, whether they can be trusted, and how the engine gets them."""
