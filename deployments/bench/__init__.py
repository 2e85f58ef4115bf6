"""Measuring a service as its clients see it: load, what came of it, and what others give on the same machine."""
