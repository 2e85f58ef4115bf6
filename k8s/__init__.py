"""Kustomizations that symmoe ships, as data."""
