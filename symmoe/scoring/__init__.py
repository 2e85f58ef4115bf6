"""Scoring: the weight of each candidate."""
