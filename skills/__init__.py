"""Taxonomies and profiles that symmoe ships, as data."""
